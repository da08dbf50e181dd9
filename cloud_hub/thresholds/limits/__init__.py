"""Limits on devices: what is in force, sets in files, export and import."""
