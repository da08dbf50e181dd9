"""Which configuration wins which leaf of a twin. No I/O."""
