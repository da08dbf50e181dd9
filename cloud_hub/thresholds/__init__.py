"""Thresholds learned from history: `fit` learns a band, `backtest` shows what it would have done. Both are pure."""
