"""The gate between a model and the hub. No I/O."""
