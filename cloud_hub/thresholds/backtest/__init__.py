"""Backtests: replay history and compare the alarms of limits, of the anomaly score and of an existing Prometheus."""
