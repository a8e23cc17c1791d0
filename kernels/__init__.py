"""Ridge regression and metrics on NumPy and CuPy; installed as `harness.kernels`."""
