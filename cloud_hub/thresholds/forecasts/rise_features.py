"""Computes six dimensionless features that compare a series' usual rise in 15 minutes with its distance to the limit.

The rise of a sample is from its value to the highest value of the next 15 minutes. It is known and used only 15 minutes
later, so no feature looks ahead. There are forecasts relative to their spread (the recent mean rise, and the usual rise
at this time of day) and shares of the past rises that would have reached the limit from here.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cloud_hub.thresholds.bands.state import Floats, Ints
from cloud_hub.thresholds.forecasts.features import AHEAD_US, DAYS, SeriesHistory, average
from shared.durations import DAY_US, HOUR_US, MINUTE_US

LATELY = 288
"""Number of recent rises that are compared with the distance: a day at five minutes."""
NAMES = (
    "risen as in the last hour", "risen as in the last day", "risen as in the last week",
    "share of rises that reach it", "share of rises at this time that reach it", "risen as at this time",
)  # fmt: skip
"""Names of the columns of `rise_features`; higher values make a crossing more probable."""


def rise_features(past: SeriesHistory, day: Floats) -> list[Floats]:
    """The columns, float64[T] each; `day` is the spread of the last day."""
    rise, known = _rises(past), past.until(AHEAD_US)
    return [*_forecasts(past, rise, known), _lately(past.y, rise, known), *_same_time(past, rise, known, day)]


def _rises(past: SeriesHistory) -> Floats:
    """The rise from each value to the highest of the next 15 minutes; NaN without a sample there."""
    end = np.searchsorted(past.t_us, past.t_us + AHEAD_US, side="right")
    top, at = np.full(past.y.size, -np.inf), np.arange(1, past.y.size + 1)
    while (ahead := at < end).any():
        top[ahead] = np.maximum(top[ahead], past.y[at[ahead]])
        at += 1
    return np.where(np.isfinite(top), top - past.y, np.nan)


def _forecasts(past: SeriesHistory, rise: Floats, known: Ints) -> list[Floats]:
    """The value plus the mean rise of a window, in units of the standard deviation of the rises."""
    parts = (np.isfinite(rise), np.nan_to_num(rise), np.nan_to_num(rise) ** 2)
    counts, sums, squares = (np.concatenate(([0.0], np.cumsum(part))) for part in parts)
    found = []
    for since_us in (HOUR_US, DAY_US, 7 * DAY_US):
        first = np.minimum(past.until(since_us), known)
        count = counts[known] - counts[first]
        count = np.where(count > 0, count, np.nan)
        mean = (sums[known] - sums[first]) / count
        spread = np.sqrt(np.maximum((squares[known] - squares[first]) / count - mean**2, 1e-12))
        found.append((past.y + mean) / spread)
    return found


def _lately(y: Floats, rise: Floats, known: Ints) -> Floats:
    """The share of the last known rises that exceed the distance."""
    windows = sliding_window_view(np.concatenate((np.full(LATELY, np.nan), rise)), LATELY)
    found = np.empty(y.size)
    for first in range(0, y.size, 2000):  # in chunks: windows of all samples at once would need too much memory
        part = slice(first, first + 2000)
        block = windows[known[part]]
        found[part] = (block > -y[part, None]).sum(axis=1) / np.maximum(np.isfinite(block).sum(axis=1), 1)
    return found


def _same_time(past: SeriesHistory, rise: Floats, known: Ints, day: Floats) -> list[Floats]:
    """The share of rises at this time of past days, within ten minutes, that reach the limit; and the usual rise."""
    reach, there, usual = np.zeros(rise.size), np.zeros(rise.size), []
    for k in range(1, DAYS + 1):
        for minutes in (-10, -5, 0, 5, 10):
            at = past.until(k * DAY_US + minutes * MINUTE_US) - 1
            then = np.where((at >= 0) & (at < known), rise[np.maximum(at, 0)], np.nan)
            reach += then > -past.y
            there += np.isfinite(then)
            if minutes == 0 and k <= 7:
                usual.append(then)
    mean = average(usual)
    spread = np.sqrt(average([(one - mean) ** 2 for one in usual]))
    share = reach / np.where(there > 0, there, np.nan)
    return [share, (past.y + mean) / np.maximum(spread, np.maximum(0.05 * day, 1e-6))]
