"""The anomaly score once more for numba, bit for bit the same."""
