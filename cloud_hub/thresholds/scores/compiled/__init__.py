"""The anomaly score compiled by numba; bit-identical to the NumPy version."""
