"""Rules of chat completions, without I/O."""
