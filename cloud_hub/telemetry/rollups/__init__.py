"""Rollups of telemetry: minutes, hours and days of each series, computed from committed samples."""
