"""Histograms of latencies with logarithmic buckets: quantiles within 4.5 %, in constant memory. No I/O."""

from __future__ import annotations

import math

from shared.protocol.messages import Sample

PER_OCTAVE = 8
BUCKETS = 24 * PER_OCTAVE
"""1 microsecond to 16 seconds."""
PERIOD_S = 10.0
"""Period of the latency metrics."""


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


class StreamLatency:
    """Time from a frame to its result, and of the model alone; `now` is the first period's start in seconds."""

    def __init__(self, now: float) -> None:
        self._total, self._run = LatencyHistogram(), LatencyHistogram()
        self.due_s = now + PERIOD_S

    def add(self, total_s: float, run_s: float) -> None:
        """Count a result."""
        self._total.add(total_s)
        self._run.add(run_s)

    def samples(self, model: str, now_us: int, now: float, rss_mb: float) -> list[Sample]:
        """The samples of a period that has ended, with the memory of the process; none before its end."""
        if now < self.due_s:
            return []
        self.due_s = now + PERIOD_S
        values = {"memory_mb": rss_mb}
        for name, histogram in (("latency", self._total), ("run", self._run)):
            if histogram.count:
                values |= {f"{name}_p50_s": histogram.quantile(0.5), f"{name}_p99_s": histogram.quantile(0.99)}
                histogram.reset()
        return [Sample(metric=f"{model}/{n}", t_us=now_us, value=round(v, 6)) for n, v in values.items()]
