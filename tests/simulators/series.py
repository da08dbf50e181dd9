"""Series of noise, a sample every five minutes, for the anomaly score."""

from __future__ import annotations

import numpy as np

PERIOD_US = 300_000_000
START_US = 1_700_000_000_000_000
LENGTH = 6000

Series = tuple[np.ndarray, np.ndarray]


def times(n: int = LENGTH) -> np.ndarray:
    return START_US + np.arange(n, dtype=np.int64) * PERIOD_US


def noise(n: int = LENGTH, seed: int = 1) -> np.ndarray:
    return np.random.RandomState(seed).normal(size=n)
