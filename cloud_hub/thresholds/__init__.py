"""Thresholds: limits, learning, rollouts, backtests, anomaly scores, peer comparison and forecasts."""
