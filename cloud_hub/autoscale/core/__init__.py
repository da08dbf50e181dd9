"""The scaling policy. No I/O."""
