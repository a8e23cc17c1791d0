"""Extract hidden states and surprisal of a text with a loaded model."""
