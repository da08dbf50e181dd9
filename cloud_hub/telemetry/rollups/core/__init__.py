"""Buckets of time and quantile sketches as columns. No I/O."""
