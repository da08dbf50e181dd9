"""Forecasts the demand after an instance asked for now has booted, as a distribution. Pure.

**Idea.** The forecast of a moment is what followed similar moments of the same signal's past: similar in the time of
day, in the kind of day (where two weeks are known), in the present value, its last change and the mean of the last
hour. Each past moment has a weight by its similarity (a Gaussian kernel), and the demands that followed it are weighted
outcomes. So the distribution needs no model of the noise, and follows both a daily shape and the present level. This is
kernel regression of the conditional distribution (Nadaraya 1964, Watson 1964; "method of analogues", Lorenz 1969). The
outcomes are shifted by the local linear slope between present and later value (Stone 1977; Cleveland 1979), which lies
in 0..1: 1 for traffic that stays where it is, 0 for noise.

**Two windows.** `soon` is the time until an instance asked for now serves; nothing can be added there, but what is
removed now is missing. `later` is the time after it. Both are quantiles at PROBABILITIES, in the signal's unit.

**Limitations.** Days are UTC. What never happened is not foreseen. A quantile near 1 is the largest of some hundred
outcomes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cloud_hub.autoscale.core.state import Outlook
from shared.durations import DAY_US, SECOND_US

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PROBABILITIES = (
    0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.965, 0.975, 0.985, 0.99, 0.995,
    0.998, 1.0,
)  # fmt: skip
HOUR_S = 3600.0
LEAST_DAYS = 1.0
"""History before there is a forecast."""
WEEKS_DAYS = 14.0
"""History before weekends are told from workdays."""
MOST_ORIGINS = 6_000
"""A longer history is thinned: what is near in time has the same weight."""
NEAREST = 300
POINTS = 6
"""Outcomes that are taken from each window of a past moment."""
WIDER, WIDENINGS = 1.7, 4
EFFECTIVE = 40.0
"""Effective sample size below which the kernel is widened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastSettings:
    """Widths of the kernel, chosen by cross-validation: `hours` of the day, others in logarithms of instances' worth.

    `other_day` is the weight of a workday for a weekend and the other way round. `hold_s` is the length of `later`.
    """

    hours: float = 3.0
    value: float = 0.4
    change: float = 0.4
    level: float = 0.4
    other_day: float = 0.3
    hold_s: float = 600.0
    level_s: float = 3600.0


STANDARD = ForecastSettings()


class Analogs:
    """The past of one signal, prepared to find similar moments.

    `demand` float64 [n] is the mean demand of each step of `step_s` seconds, the first of which ends at `start_us`;
    NaN where it is unknown. `unit` is the demand that one instance carries.
    """

    def __init__(
        self, demand: Floats, start_us: int, step_s: float, unit: float, settings: ForecastSettings = STANDARD
    ) -> None:
        self.demand, self.step_s, self.start_us, self.settings = demand, step_s, start_us, settings
        self._unit = unit
        self._known = np.isfinite(demand)
        filled = _filled(demand) / unit
        level = _trailing_mean(filled, max(1, round(settings.level_s / step_s)))
        self._features = np.stack([
            np.log(filled + 0.3) / settings.value,
            np.diff(filled, prepend=filled[:1]) / settings.change,
            np.log(level + 0.05) / settings.level,
        ])  # fmt: skip
        times = start_us + np.arange(demand.size, dtype=np.int64) * int(step_s * SECOND_US)
        self._hours = (times % DAY_US) / (SECOND_US * HOUR_S)
        self._weekend = (times // DAY_US + 3) % 7 >= 5  # the epoch began on a Thursday

    def at(self, index: int, boot_s: float, signal: str = "") -> Outlook | None:
        """The outlook at step `index` from the steps up to it; None without a known value or enough history."""
        boot = max(1, math.ceil(boot_s / self.step_s))
        hold = max(1, round(self.settings.hold_s / self.step_s))
        last = index - boot - hold
        if last * self.step_s < LEAST_DAYS * 24 * HOUR_S or not self._known[index]:
            return None
        origins = np.arange(last % self._stride(last), last + 1, self._stride(last))
        origins = origins[self._known[origins]]
        weights, origins = _nearest(self._weights(origins, index), origins)
        if not weights.size:
            return None
        soon = _window(origins, 1, boot)
        later = _window(origins, boot + 1, boot + hold)
        shift = self._shift(origins, weights, later, index)
        ahead = [self._quantiles(window, weights, shift) for window in (soon, later)]
        if not all(ahead):
            return None
        return Outlook(
            signal=signal, t_us=self.start_us + index * int(self.step_s * SECOND_US), hold_s=self.settings.hold_s,
            soon=ahead[0], later=ahead[1],
            samples=round(float(weights.sum() ** 2 / (weights**2).sum()), 1),
        )  # fmt: skip

    def _stride(self, last: int) -> int:
        return -(-last // MOST_ORIGINS) or 1

    def _weights(self, origins: Ints, index: int) -> Floats:
        apart = np.abs(self._hours[origins] - self._hours[index])
        square: Floats = (np.minimum(apart, 24 - apart) / self.settings.hours) ** 2
        for feature in self._features:
            square += (feature[origins] - feature[index]) ** 2
        weights: Floats = np.exp(-0.5 * square)
        for _ in range(WIDENINGS):
            total = weights.sum()
            if total > 0 and total**2 >= EFFECTIVE * (weights**2).sum():
                break
            square /= WIDER**2
            np.exp(-0.5 * square, out=weights)
        if index * self.step_s >= WEEKS_DAYS * 24 * HOUR_S:
            weights[self._weekend[origins] != self._weekend[index]] *= self.settings.other_day
        return weights

    def _shift(self, origins: Ints, weights: Floats, later: Ints, index: int) -> Floats:
        """What the outcomes of each origin are shifted by: the slope times the difference of the values."""
        before, after = self.demand[origins], _means(self.demand[later])
        known = np.isfinite(after)
        weights = np.where(known, weights, 0.0)
        total = weights.sum()
        if total <= 0:
            return np.zeros(origins.size)
        off = before - (weights * before).sum() / total
        spread = (weights * off**2).sum()
        slope = (weights * off * np.where(known, after, 0.0)).sum() / spread if spread > 0 else 0.0
        shift: Floats = min(max(float(slope), 0.0), 1.0) * (self.demand[index] - before)
        return shift

    def _quantiles(self, window: Ints, weights: Floats, shift: Floats) -> tuple[float, ...]:
        outcomes = np.maximum(self.demand[window] + shift[:, None], 0.0).ravel()
        spread = np.repeat(weights, window.shape[1])
        known = np.isfinite(outcomes)
        if not known.any():
            return ()
        outcomes, spread = outcomes[known], spread[known]
        order = np.argsort(outcomes)
        outcomes, share = outcomes[order], np.cumsum(spread[order])
        found = np.interp(PROBABILITIES, (share - 0.5 * spread[order]) / share[-1], outcomes)
        return tuple(float(f"{value:.5g}") for value in found)


def _nearest(weights: Floats, origins: Ints) -> tuple[Floats, Ints]:
    """The NEAREST origins with a weight."""
    if weights.size > NEAREST:
        some = np.argpartition(weights, -NEAREST)[-NEAREST:]
        weights, origins = weights[some], origins[some]
    positive = weights > 0
    return weights[positive], origins[positive]


def _window(origins: Ints, first: int, last: int) -> Ints:
    """Up to POINTS steps between `first` and `last` after each origin, int64 [origins, points]."""
    steps = np.unique(np.linspace(first, last, min(POINTS, last - first + 1)).round().astype(np.int64))
    window: Ints = origins[:, None] + steps
    return window


def _means(values: Floats) -> Floats:
    """The mean of the known values of each row; NaN if none is known."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    means: Floats = np.divide(sums, count, out=np.full(count.size, np.nan), where=count > 0)
    return means


def _filled(demand: Floats) -> Floats:
    """The last known value where one is unknown; the first one before it; zeros if none is known."""
    known = np.isfinite(demand)
    if not known.any():
        return np.zeros(demand.size)
    at = np.where(known, np.arange(demand.size), 0)
    filled: Floats = demand[np.maximum(np.maximum.accumulate(at), np.argmax(known))]
    return np.maximum(filled, 0.0)


def _trailing_mean(values: Floats, steps: int) -> Floats:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(0, ends - steps)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return means
