"""Routing, message templates and markdown escaping. No I/O."""
