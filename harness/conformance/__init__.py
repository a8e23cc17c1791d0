"""Comparison of the harness's results with test vectors recorded from other programs."""
