"""Peer comparison: detects servers that persistently differ from their peers. No I/O."""
