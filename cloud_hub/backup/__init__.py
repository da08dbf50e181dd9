"""Backup of the hub state into one file, and restore."""
