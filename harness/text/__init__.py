"""Stimuli -> contexts -> tokens, and which token belongs to which stimulus."""
