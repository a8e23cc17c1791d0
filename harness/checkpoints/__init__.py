"""Resolve a model name or folder to a checkpoint with a known revision: Hub, configuration, tokenizer, weight files."""
