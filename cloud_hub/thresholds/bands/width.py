"""Width of a band: adapts its edges to a target coverage, and limits how much is learned from outliers.

An edge is a multiple of the scale. Each sample beyond it moves it outwards by a step, each sample inside moves it
inwards by a fraction of the step, so that in the long run the intended share is beyond, for any series: the online
gradient step on the pinball loss (Gibbs & Candès, "Adaptive conformal inference under distribution shift", 2021;
Angelopoulos, Candès & Tibshirani, "Conformal PID control", 2023), taken on the logarithm. For shares too rare to be
counted, the excess over an edge is taken as exponential (peaks over threshold; Siffer et al., "Anomaly detection in
streams with extreme value theory", 2017).
Only + - * / and comparisons are used: they give the same bits on every machine, unlike exp and log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cloud_hub.thresholds.bands.state import Columns, Flags, Small

STEP, AHEAD_STEP = np.float32(0.1), np.float32(0.03)
"""An edge grows by a tenth with each sample beyond it; the day-ahead edge less, after 1,000 samples."""
SETTLED = np.float32(100)
TAIL = 0.01
"""Share of samples beyond each day-ahead edge; rarer ones are extrapolated."""
EXCESS_RATE = np.float32(0.02)
RATE_MEMORY = np.float32(1 / 1000)
LEARN_WITHIN, LEAST_WITHIN = np.float32(2), np.float32(6)
"""Values are clipped at twice the edge, but at least at six scales, so that a narrow band does not hide a change."""
LIFT, ONE = np.float32(1.2), np.float32(1)
ROUNDING = 1e-13
"""Minimum scale as a share of the level, because of the resolution of float64."""
ENOUGH_SEEN, LEAST_SEEN, DAY_S = 1000, 30, np.float32(86400)
MOST, HUGE, LEAST, TINY = np.float32(1e30), np.float32(1e29), np.float32(1e-3), np.float32(1e-30)


def clip(values: Any, low: Any, high: Any, out: Any = None) -> Any:
    """`np.clip`, which takes five times as long for few series: a step is a hundred calls of NumPy."""
    return np.minimum(np.maximum(values, low), high, out=out)


@dataclass(slots=True, eq=False)
class Band:
    """A forecast of n series relative to their levels, float32 [n]: `expected`, edges `down` and `up`, scale `size`.

    `expected` is the weighted mean of `forecasts` [k, n].
    """

    forecasts: Small
    expected: Small
    size: Small
    down: Small
    up: Small

    def beyond(self, value: Small, known: Flags) -> tuple[Flags, Flags]:
        """(whether `value` is below the band, whether it is above)."""
        off = value - self.expected
        return (off < -self.down) & known, (off > self.up) & known

    def clipped(self, value: Small, lift: Small | np.float32 = ONE) -> Small:
        """`value`, clipped at `lift` times the usual distance for learning."""
        least = LEAST_WITHIN * self.size
        down, up = np.maximum(LEARN_WITHIN * self.down, least), np.maximum(LEARN_WITHIN * self.up, least)
        kept: Small = self.expected + clip(value - self.expected, -down * lift, up * lift)
        return kept


@dataclass(slots=True, eq=False)
class Moment:
    """Values common to both bands of a sample, float32 [n]: `spread` and `rounding` of the scale, caution, `sure`."""

    spread: Small
    rounding: Small
    caution: Small
    sure: Small


def moment(columns: Columns, spread: Small) -> Moment:
    """The `Moment` of a sample; at its time the scale is `spread` times the usual one."""
    rounding = np.minimum(np.abs(columns.level) * ROUNDING, MOST).astype(np.float32) + TINY
    sure = progress(columns)
    return Moment(spread, rounding, caution(columns, sure), sure)


def band(forecasts: Small, error: Small, scale: Small, reach: tuple[Small, Small], now: Moment) -> Band:
    """The band around the weighted `forecasts` [k, n], whose mean absolute errors were `error` [k, n].

    `reach` is its distance down and up in multiples of `scale` once settled.
    """
    least = scale * np.float32(1e-3) + TINY
    weights = (np.minimum.reduce(error) + least) / (error + least)
    weights *= weights
    weights *= weights
    expected: Small = np.add.reduce(weights * forecasts) / np.add.reduce(weights)
    size = np.maximum(scale * now.spread, now.rounding)
    wide = size * now.caution
    return Band(forecasts, expected, size, reach[0] * wide, reach[1] * wide)


def progress(columns: Columns) -> Small:
    """The progress of each series, 0..1, towards ENOUGH_SEEN samples, or a day with at least LEAST_SEEN samples."""
    seen = columns.seen
    done = np.maximum(seen / ENOUGH_SEEN, seen * columns.period / DAY_S)
    least: Small = np.minimum(np.minimum(done, seen / LEAST_SEEN), ONE)
    return least


def caution(columns: Columns, sure: Small) -> Small:
    """The factor by which a band is wider on a short history; approaches 1."""
    factor: Small = 20 / (columns.seen + 1) + np.float32(1.5) - np.float32(0.5) * sure
    return factor


def raise_lift(lift: Small, out: Flags) -> None:
    """Each sample outside multiplies the clipping distance by LIFT, each inside halves it, to follow large shifts."""
    lift[:] = np.where(out, np.minimum(lift * LIFT, MOST), np.maximum(lift * np.float32(0.5), 1))


def follow(columns: Columns, below: Flags, above: Flags, once: Small, outside: float) -> None:
    """Move both edges so that a share `outside` of samples is beyond them together.

    Each side gets half of it, or more if the other side cannot be crossed (for example, counts are never below 0).
    """
    whole, half = np.float32(outside), np.float32(outside / 2)
    low = clip(whole - columns.high_rate, half, whole)
    high = clip(whole - columns.low_rate, half, whole)
    _move(columns.low, STEP * (below - low))
    _move(columns.high, STEP * (above - high))
    rate = np.maximum(once, RATE_MEMORY)
    for share, missed in ((columns.low_rate, below), (columns.high_rate, above)):
        np.maximum(share + rate * (missed - share), TINY, out=share)


def follow_ahead(columns: Columns, ahead: Band, value: Small, below: Flags, above: Flags) -> None:
    """Move the day-ahead edges to a share TAIL beyond each, and update the mean excess of ordinary samples.

    The k-th sample of a run beyond has weight 1/k: a long run is one event, and an anomaly must not widen the limits.
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
        # An excess larger than the edge itself is an anomaly and not part of the tail.
        ordinary = clip(over / ahead.size, 0, edge)
        np.add(excess, rate * missed * (ordinary - excess), out=excess)
        _move(edge, step * (missed - np.float32(TAIL)))


def _move(edge: Small, step: Small) -> None:
    clip(edge * (1 + step), LEAST, MOST, out=edge)
