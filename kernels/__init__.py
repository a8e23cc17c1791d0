"""The arithmetic: ridge regression and column-wise scores, one code for NumPy and CuPy."""
