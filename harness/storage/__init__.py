"""Finished work, stored by content: units, claims, tables, and where each came from."""
