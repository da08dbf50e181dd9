"""How far out the edges of a band lie, and what may be learned from a value beyond them.

An edge is a multiple of the scale. Each sample beyond it moves it out by a step, each one inside moves it in by the
step's share, so that in the long run as many are beyond as are meant to be, whatever the series does: the online
gradient step on the pinball loss (Gibbs & Candès, "Adaptive conformal inference under distribution shift", 2021;
Angelopoulos, Candès & Tibshirani, "Conformal PID control", 2023), taken on the logarithm. Farther out than samples
can be counted, the excess over an edge counts as exponential (peaks over threshold; Siffer et al., "Anomaly detection
in streams with extreme value theory", 2017; a rarer share than the edge's own only, as the facts demand).
Only + - * / and comparisons are used: these give the same bits on every machine, exp and log need not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cloud_hub.thresholds.bands.state import Columns, Flags, Small

STEP, AHEAD_STEP = np.float32(0.1), np.float32(0.03)
"""An edge grows by a tenth with a sample beyond it. The day-ahead one is calmer from 1,000 samples on."""
SETTLED = np.float32(100)
TAIL = 0.01
"""Share of samples beyond each day-ahead edge; rarer ones are extrapolated."""
EXCESS_RATE = np.float32(0.02)
RATE_MEMORY = np.float32(1 / 1000)
LEARN_WITHIN, LEAST_WITHIN = np.float32(2), np.float32(6)
"""A value is learned from as far as twice the edge, at least six scales: a near edge must not hide a change."""
LIFT, ONE = np.float32(1.2), np.float32(1)
ROUNDING = 1e-13
"""No scale is below this share of the level: there float64 itself is rough."""
ENOUGH_SEEN, LEAST_SEEN, DAY_S = 1000, 30, np.float32(86400)
MOST, HUGE, LEAST, TINY = np.float32(1e30), np.float32(1e29), np.float32(1e-3), np.float32(1e-30)


@dataclass(slots=True, eq=False)
class Band:
    """A forecast of n series beyond their levels, float32 [n]: `expected`, `down` and `up` from it, one scale `size`.

    `forecasts` [k, n] are those that `expected` is mixed of.
    """

    forecasts: Small
    expected: Small
    size: Small
    down: Small
    up: Small

    def beyond(self, value: Small, known: Flags) -> tuple[Flags, Flags]:
        """Whether `value` lies below or above."""
        off = value - self.expected
        return (off < -self.down) & known, (off > self.up) & known

    def clipped(self, value: Small, lift: Small | np.float32 = ONE) -> Small:
        """What is learned of `value`: an outlier counts as one that lies `lift` times the usual reach away."""
        least = LEAST_WITHIN * self.size
        down, up = np.maximum(LEARN_WITHIN * self.down, least), np.maximum(LEARN_WITHIN * self.up, least)
        kept: Small = self.expected + np.clip(value - self.expected, -down * lift, up * lift)
        return kept


@dataclass(slots=True, eq=False)
class Moment:
    """What both bands of a sample share, float32 [n]: `spread` and `rounding` of the scale, caution, `sure` 0..1."""

    spread: Small
    rounding: Small
    caution: Small
    sure: Small


def moment(columns: Columns, spread: Small) -> Moment:
    """The moment of a sample at whose time the scale is `spread` times the usual one."""
    rounding = np.minimum(np.abs(columns.level) * ROUNDING, MOST).astype(np.float32) + TINY
    sure = progress(columns)
    return Moment(spread, rounding, caution(columns, sure), sure)


def band(forecasts: Small, error: Small, scale: Small, reach: tuple[Small, Small], now: Moment) -> Band:
    """The band about the mixture of `forecasts` [k, n], whose mean absolute errors were `error` [k, n].

    `reach` is how many times `scale` it goes down and up once settled.
    """
    least = scale * np.float32(1e-3) + TINY
    weights = (error.min(axis=0) + least) / (error + least)
    weights *= weights
    weights *= weights
    expected: Small = (weights * forecasts).sum(axis=0) / weights.sum(axis=0)
    size = np.maximum(scale * now.spread, now.rounding)
    wide = size * now.caution
    return Band(forecasts, expected, size, reach[0] * wide, reach[1] * wide)


def progress(columns: Columns) -> Small:
    """How far each series is, 0..1, on the way to ENOUGH_SEEN samples or a day of at least LEAST_SEEN of them."""
    seen = columns.seen
    done = np.maximum(seen / ENOUGH_SEEN, seen * columns.period / DAY_S)
    least: Small = np.minimum(np.minimum(done, seen / LEAST_SEEN), ONE)
    return least


def caution(columns: Columns, sure: Small) -> Small:
    """How many times wider a band must be for what has not been seen yet; 1 in the end."""
    factor: Small = 20 / (columns.seen + 1) + np.float32(1.5) - np.float32(0.5) * sure
    return factor


def raise_lift(lift: Small, out: Flags) -> None:
    """Each sample outside opens the reach by LIFT, each inside halves it: a shift by any factor is soon taken over."""
    lift[:] = np.where(out, np.minimum(lift * LIFT, MOST), np.maximum(lift * np.float32(0.5), 1))


def follow(columns: Columns, below: Flags, above: Flags, once: Small, outside: float) -> None:
    """Move both edges so that a share `outside` of samples lies beyond them together.

    Each side has half of it; where the other side cannot be crossed (a count of 0 is its own floor), more.
    """
    whole, half = np.float32(outside), np.float32(outside / 2)
    low = np.clip(whole - columns.high_rate, half, whole)
    high = np.clip(whole - columns.low_rate, half, whole)
    _move(columns.low, STEP * (below - low))
    _move(columns.high, STEP * (above - high))
    rate = np.maximum(once, RATE_MEMORY)
    for share, missed in ((columns.low_rate, below), (columns.high_rate, above)):
        np.maximum(share + rate * (missed - share), TINY, out=share)


def follow_ahead(columns: Columns, ahead: Band, value: Small, below: Flags, above: Flags) -> None:
    """Move the day-ahead edges to a share TAIL beyond each, and learn how far beyond ordinary samples go.

    The k-th sample of a run beyond counts 1/k: a long run is one event, and an anomaly must not open the limits.
    """
    run = columns.ahead_run
    np.multiply(run + 1, below | above, out=run)
    counts = 1 / np.maximum(run, 1)
    step = np.maximum(np.minimum(SETTLED / (columns.seen + 1), STEP), AHEAD_STEP)
    rate = np.maximum(1 / (columns.seen * np.float32(TAIL) + 2), EXCESS_RATE)  # about 1/n at the n-th sample beyond
    off = value - ahead.expected
    for edge, excess, missed, over in (
        (columns.ahead_low, columns.low_excess, below * counts, -off - ahead.down),
        (columns.ahead_high, columns.high_excess, above * counts, off - ahead.up),
    ):
        # An excess larger than the edge itself is an anomaly, no tail.
        ordinary = np.clip(over / ahead.size, 0, edge)
        np.add(excess, rate * missed * (ordinary - excess), out=excess)
        _move(edge, step * (missed - np.float32(TAIL)))


def _move(edge: Small, step: Small) -> None:
    np.clip(edge * (1 + step), LEAST, MOST, out=edge)
