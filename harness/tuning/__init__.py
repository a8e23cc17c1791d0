"""Instruction-tune a base model with and without instructions, and save checkpoints along the way."""
