"""The models that the harness knows by name: their table, sizes, precisions, and the tiny ones it builds."""
