"""Readers of published file formats: netCDF, pickles, the tables of Natural Stories."""
