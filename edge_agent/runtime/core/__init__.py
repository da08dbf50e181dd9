"""Clock jumps. No I/O."""
