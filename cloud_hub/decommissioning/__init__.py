"""Removal of a device as one act, and its restoration."""
