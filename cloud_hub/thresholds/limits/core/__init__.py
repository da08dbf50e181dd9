"""Pure functions on sets of limits. No I/O."""
