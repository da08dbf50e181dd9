"""Telemetry: samples, events, rollups and retention."""
