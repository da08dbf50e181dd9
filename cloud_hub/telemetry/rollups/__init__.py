"""Rollups of telemetry: minutes, hours and days of each series, made from committed samples and read by time."""
