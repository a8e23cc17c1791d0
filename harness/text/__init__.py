"""Stimuli -> contexts -> tokens, and the assignment of tokens to stimuli."""
