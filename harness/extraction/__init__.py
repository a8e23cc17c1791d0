"""A loaded model and a text -> hidden states and surprisal."""
