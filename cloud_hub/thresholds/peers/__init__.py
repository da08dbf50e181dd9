"""Peer comparison: which of many servers differs from its peers, and lastingly so. No I/O."""
