"""What alarms would have been over the past: of limits, of the anomaly score, of an existing Prometheus."""
