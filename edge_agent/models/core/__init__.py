"""The result gate of a model. No I/O."""
