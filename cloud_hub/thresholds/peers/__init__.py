"""Peer comparison: which of many servers differs from its peers, and persistently so. No I/O."""
