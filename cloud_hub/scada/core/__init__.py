"""Decisions without I/O: names, values, writes."""
