"""Counts the requests of a client process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge_agent.collectors.plant.messages import Statistics

REPORT_S = 2.0


class RequestCounter:
    """Requests, those that failed, and the mean time of those since the last report."""

    def __init__(self) -> None:
        self.requests = self.errors = self.late = 0
        self._seconds: list[float] = []
        self._round_trip_s = 0.0
        self._next_s = 0.0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Measure a request; one that raises has failed."""
        began = time.monotonic()
        self.requests += 1
        try:
            yield
        except Exception:
            self.errors += 1
            raise
        self._seconds.append(time.monotonic() - began)

    def report(self, now_s: float) -> Statistics | None:
        """Figures, every REPORT_S."""
        if now_s < self._next_s:
            return None
        self._next_s = now_s + REPORT_S
        if self._seconds:
            self._round_trip_s, self._seconds = sum(self._seconds) / len(self._seconds), []
        return Statistics(
            requests=self.requests, errors=self.errors, late=self.late, round_trip_s=self._round_trip_s
        )  # fmt: skip
