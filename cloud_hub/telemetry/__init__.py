"""Samples, rollups and retention of what devices measure."""
