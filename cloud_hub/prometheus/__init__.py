"""Connects to Prometheus: an HTTP API client (`client`) and a remote write receiver (`remote_write`)."""
