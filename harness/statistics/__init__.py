"""Scores -> tests and intervals: tuning, correlations, scaling, comparison with the paper."""
