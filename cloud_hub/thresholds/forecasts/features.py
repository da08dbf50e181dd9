"""Computes dimensionless features of a series' past to predict that it crosses an upper limit.

All features are sums over windows that end at or before the sample, so none looks ahead. Values are distances from the
limit in units of the first day's mean distance, clipped at 10,000, because the running sums would keep the error of an
outlier. Missing history (no sample a week ago) is NaN, which the model accepts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.bands.state import Floats, Ints
from shared.durations import DAY_US, HOUR_US, MINUTE_US

Bools = npt.NDArray[np.bool_]
AHEAD_US = 15 * MINUTE_US
DAYS = 14
"""Past days that are compared at the same time of day: two of each weekday."""
INTERVALS = 16
"""Number of past intervals between crossings that are compared."""
FARTHEST = 1e4
NAMES = (
    "distance in a day's spread", "distance in a week's spread", "distance in usual moves", "straight line ahead",
    "mean of 1 h", "mean of 6 h", "mean of 24 h", "slope over 5 min", "slope over 15 min", "slope over 60 min",
    "moves of 1 h", "spread of 1 h", "spread of a day", "moves of a day",
    "yesterday ahead", "last week ahead", "7 days ahead", "14 days ahead", "usual rise",
    "now and usual rise", "now and yesterday's rise", "now and last week's rise",
    "share of 7 days above", "share of 14 days above", "share of 14 days crossing", "share of weeks above",
    "share near this time", "share near this time of weeks", "share of 24 hours", "share of 6 hours", "sine", "cosine",
    "above in 1 h", "above in 6 h", "above in 24 h", "above in a week", "crossings in 24 h", "crossings in a week",
    "crossings ever", "time since above", "pauses that end now", "pause beside the usual", "pause beside the last",
)  # fmt: skip
"""Names of the columns of `history_features`, in order; "ahead" is the same 15 minutes on past days."""


class SeriesHistory:
    """One series of T samples, with increasing times in microseconds, and running sums over its past."""

    def __init__(self, t_us: Ints, values: Floats, limit: float) -> None:
        with np.errstate(over="ignore"):
            away = np.clip(values, -1e300, 1e300) / 2 - np.clip(limit, -1e300, 1e300) / 2  # halves cannot overflow
        first_day = np.abs(away[t_us - t_us[0] < DAY_US])
        unit = float(np.mean(first_day / first_day.size)) * first_day.size or 1.0
        self.t_us = t_us
        with np.errstate(over="ignore"):
            self.y = np.clip(away / unit, -FARTHEST, FARTHEST)
        self.over: Bools = values > limit
        starts = self.over.copy()
        starts[1:] &= ~self.over[:-1]
        self.starts: Bools = starts
        self._sums = {
            "y": _running(self.y),
            "square": _running(self.y**2),
            "move": _running(np.abs(np.diff(self.y, prepend=self.y[:1]))),
            "over": _running(self.over),
            "starts": _running(self.starts),
        }

    def until(self, ago_us: int) -> Ints:
        """The number of samples at least `ago_us` old at the time of each sample; int64[T]."""
        return np.searchsorted(self.t_us, self.t_us - ago_us, side="right").astype(np.int64)

    def mean(self, name: str, since_us: int, ago_us: int = 0) -> Floats:
        """Mean of a column over the window from `since_us` (left out) to `ago_us` ago; NaN where it is empty."""
        first, last = self.until(since_us), self.until(ago_us)
        count = np.where(last > first, last - first, np.nan)
        return np.asarray((self._sums[name][last] - self._sums[name][first]) / count)

    def spread(self, since_us: int) -> Floats:
        """Standard deviation over the window, never zero."""
        variance = self.mean("square", since_us) - self.mean("y", since_us) ** 2
        return np.asarray(np.sqrt(np.maximum(variance, 1e-12)))

    def then(self, ago_us: int) -> Floats:
        """The latest value at least `ago_us` old; NaN before the first."""
        at = self.until(ago_us) - 1
        return np.where(at >= 0, self.y[at], np.nan)


def _running(column: npt.NDArray[np.generic]) -> Floats:
    return np.concatenate(([0.0], np.cumsum(column, dtype=np.float64)))


def history_features(past: SeriesHistory, day: Floats) -> list[Floats]:
    """The columns, float64[T] each; `day` is the spread of the last day."""
    return [*_lately(past, day), *_same_time(past, day), *_crossings(past)]


def _lately(past: SeriesHistory, day: Floats) -> list[Floats]:
    """Distance to the limit, slopes and volatility."""
    y, move = past.y, np.maximum(past.mean("move", DAY_US), 1e-6)
    slopes = [(y - past.then(minutes * MINUTE_US)) for minutes in (5, 15, 60)]
    found = [y / day, y / past.spread(7 * DAY_US), y / move, (y + slopes[1]) / day]
    found += [past.mean("y", hours * HOUR_US) / day for hours in (1, 6, 24)]
    found += [slope / day for slope in slopes]
    found += [past.mean("move", HOUR_US) / move, past.spread(HOUR_US) / day, day / past.spread(7 * DAY_US), move / day]
    return found


def _same_time(past: SeriesHistory, day: Floats) -> list[Floats]:
    """The next 15 minutes on past days and in past weeks, and shares of past hours."""
    levels, rises, shares, wide, begun = [], [], [], [], []
    for k in range(1, DAYS + 1):
        ago = k * DAY_US
        level = past.mean("y", ago, ago - AHEAD_US)
        levels.append(level)
        rises.append(level - past.then(ago))
        shares.append(_any(past.mean("over", ago, ago - AHEAD_US)))
        begun.append(_any(past.mean("starts", ago, ago - AHEAD_US)))
        wide.append(past.mean("over", ago + 2 * AHEAD_US, ago - 3 * AHEAD_US))
    rise = average(rises[:7])
    found = [levels[0] / day, levels[6] / day, average(levels[:7]) / day, average(levels) / day, rise / day]
    found += [(past.y + rise) / day, (past.y + rises[0]) / day, (past.y + rises[6]) / day]
    found += [average(shares[:7]), average(shares), average(begun), average([shares[6], shares[13]])]
    found += [average(wide), average([wide[6], wide[13]])]
    hours = [_any(past.mean("starts", k * HOUR_US, k * HOUR_US - AHEAD_US)) for k in range(1, 25)]
    angle = 2 * np.pi * (past.t_us % DAY_US) / DAY_US
    return [*found, average(hours), average(hours[:6]), np.sin(angle), np.cos(angle)]


def _crossings(past: SeriesHistory) -> list[Floats]:
    """How often and how long ago it crossed, and how many past intervals ended at this length."""
    found = [past.mean("over", hours * HOUR_US) for hours in (1, 6, 24, 168)]
    found += [past.mean("starts", hours * HOUR_US) for hours in (24, 168)]
    ever = np.arange(1, past.t_us.size + 1)
    found.append(np.cumsum(past.starts) / ever)
    last = np.maximum.accumulate(np.where(past.over, np.arange(past.t_us.size), -1))
    found.append(
        np.where(last >= 0, np.log1p((past.t_us - past.t_us[np.maximum(last, 0)]).clip(0) / MINUTE_US), np.nan)
    )
    at = past.t_us[past.starts]
    count = np.cumsum(past.starts)
    if at.size < 2:
        return [*found, *np.full((3, past.t_us.size), np.nan)]
    since = past.t_us - at[np.maximum(count - 1, 0)]
    between = np.diff(at)
    longer, ended, lengths = np.zeros(since.size), np.zeros(since.size), []
    for k in range(INTERVALS):
        which = count - 2 - k
        length = np.where(which >= 0, between[np.maximum(which, 0)], -1)
        longer += length > since
        ended += (length > since) & (length <= since + AHEAD_US)
        lengths.append(np.where(which >= 0, length, np.nan))
    usual = average(lengths)
    return [*found, (ended + 0.1) / (longer + 1), np.where(count > 0, since / usual, np.nan), since / lengths[0]]


def _any(mean: Floats) -> Floats:
    """1 where the mean of a mask is above 0, else 0; NaN stays NaN."""
    return np.where(np.isnan(mean), np.nan, mean > 0)


def average(columns: list[Floats]) -> Floats:
    """Mean of the known columns; NaN where none is known."""
    total, known = np.zeros(columns[0].size), np.zeros(columns[0].size)
    for column in columns:
        there = ~np.isnan(column)
        total += np.where(there, column, 0.0)
        known += there
    return np.asarray(total / np.where(known > 0, known, np.nan))
