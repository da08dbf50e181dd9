"""Store-and-forward session, stream windows, hub time. No I/O."""
