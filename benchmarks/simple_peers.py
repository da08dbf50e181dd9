"""Simple baselines of the peer comparison: a robust z-score within each service that must persist for some minutes.

For each metric z = (x - median of the service) / (1.4826 MAD of the service); the score is the least |z| of the last
HELD samples, so short spikes do not count. `own` is fairer if servers are unlike: each server's z is taken relative to
that server's own median and MAD of z over the last week, updated every day.

Their thresholds were chosen on seeds 101 to 103 (300 servers, two weeks, listed and unlisted kinds): the geometric mean
of the lowest with at most two pages a shift.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from benchmarks.series import Floats, Ints

HELD = 3
"""Samples of five minutes: a quarter of an hour."""
SHARE = 0.05
LEAST = (1.0, 1.0, 1.0, 0.1, 1.0, 1.0)
"""The deviation is at least this share of the median, and this of cpu, memory, disk, requests, latency, errors: servers
that agree to the last digit are no reason to alarm."""
DAY = 288

CHOSEN = {
    "simple peers": {False: 10.6, True: 23.0},
    "simple peers, beside its own week": {False: 20.0, True: 26.0},
}
"""The threshold of each, where the servers of a service are unlike or not."""


class SimplePeers:
    """Scores of m metrics of n servers, step by step; NaN until HELD samples are there."""

    def __init__(self, group: Ints, sides: Sequence[str], learn: int, own: bool) -> None:
        self.members = [np.flatnonzero(group == one) for one in range(int(group.max()) + 1)]
        self.sides, self.servers, self.own, self.learn, self.steps = sides, len(group), own, learn, 0
        self.seen: deque[Floats] = deque(maxlen=7 * DAY)
        self.usual: tuple[Floats, Floats] | None = None
        self.last: deque[Floats] = deque(maxlen=HELD)

    def step(self, t_us: Ints, values: Floats) -> Floats:
        """|z| as it was held, [metric x server]."""
        z = self.distance(values.reshape(-1, self.servers))
        if self.own:
            z = self._beside_its_own(z)
        for number, side in enumerate(self.sides):
            z[number] = z[number] if side == "high" else np.abs(z[number])
        self.last.append(z)
        held = np.min(np.stack(self.last), axis=0) if len(self.last) == HELD else np.full(z.shape, np.nan)
        return np.asarray(held.ravel())

    def distance(self, values: Floats) -> Floats:
        """z of each metric and server beside its service now; NaN where a sample is missing or hardly any is there."""
        z = np.full(values.shape, np.nan)
        for members in self.members:
            part = values[:, members]
            known = np.isfinite(part).sum(axis=1) >= 3
            if known.any():
                z[np.ix_(known, members)] = _robust(part[known], np.array(LEAST)[: len(values)][known, None])
        return z

    def _beside_its_own(self, z: Floats) -> Floats:
        if self.steps >= self.learn and (self.steps - self.learn) % DAY == 0:
            past = np.nan_to_num(np.stack(self.seen))  # what is missing was usual
            middle = np.median(past, axis=0)
            spread = np.median(np.abs(past - middle), axis=0)
            self.usual = middle, np.maximum(1.4826 * spread, 0.1)
        self.steps += 1
        self.seen.append(z)
        return np.full(z.shape, np.nan) if self.usual is None else np.asarray((z - self.usual[0]) / self.usual[1])


def _robust(part: Floats, least: Floats) -> Floats:
    middle = _medians(part)
    spread = 1.4826 * _medians(np.abs(part - middle))
    return np.asarray((part - middle) / np.maximum(np.maximum(spread, SHARE * np.abs(middle)), least))


def _medians(part: Floats) -> Floats:
    """`np.nanmedian` of each row, [row, 1], in a tenth of its time."""
    ordered, known = np.sort(part, axis=1), np.isfinite(part).sum(axis=1)[:, None]
    low, high = (np.take_along_axis(ordered, half, axis=1) for half in ((known - 1) // 2, known // 2))
    return np.asarray((low + high) / 2)
