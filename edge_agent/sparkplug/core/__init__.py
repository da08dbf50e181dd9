"""Decisions without I/O: names, what is reported, which writes happen."""
