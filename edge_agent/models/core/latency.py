"""Histogram of latencies with logarithmic buckets: quantiles within 4.5 %, in constant memory."""

from __future__ import annotations

import math

PER_OCTAVE = 8
BUCKETS = 24 * PER_OCTAVE
"""1 microsecond to 16 seconds."""


class LatencyHistogram:
    """Counts latencies since the last `reset`."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count a latency."""
        bucket = int(math.log2(max(seconds * 1e6, 1.0)) * PER_OCTAVE)
        self._counts[min(bucket, BUCKETS - 1)] += 1
        self.count += 1

    def quantile(self, q: float) -> float:
        """The `q` quantile in seconds: the middle of its bucket; 0 while nothing was counted."""
        rank, seen = q * self.count, 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank and seen:
                return float(2 ** ((bucket + 0.5) / PER_OCTAVE) * 1e-6)
        return 0.0

    def reset(self) -> None:
        """Start again."""
        self._counts, self.count = [0] * BUCKETS, 0
