"""Notebooks for newcomers: an own recording, a base and its tuned version, surprisal and reading times."""
