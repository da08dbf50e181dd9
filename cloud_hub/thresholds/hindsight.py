"""What ours would have done with a series: band and alarms over its past, learned from the past alone. Pure.

The one place that knows which model stands behind a backtest: comparisons and plots take `Seen` and ask no further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.backtest import Episode, pushed, rolling
from cloud_hub.thresholds.batch import bounds
from cloud_hub.thresholds.columns import Floats
from cloud_hub.thresholds.fit import clean
from shared.thresholds import DAY_US, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One series in hindsight: all arrays are of one length; `low` and `high` are NaN where no band was there yet.

    Before `from_us` the series is only learned from. `episodes` are alarms in order of time.
    """

    metric: str
    from_us: int
    t_us: npt.NDArray[np.int64]
    values: Floats
    low: Floats
    high: Floats
    episodes: list[Episode]


def look(
    metric: str, t_us: npt.NDArray[Any], values: npt.NDArray[Any], *, train_days: float, refit_days: float = 1.0
) -> Seen:  # fmt: skip
    """Judge a series (UTC microseconds, any order; NaN is no value) as the hub would have, day by day.

    The first `train_days` are for learning. Raises ValueError unless the days are above 0.
    """
    times, points = clean(t_us, values)
    low, high = np.full(times.size, np.nan), np.full(times.size, np.nan)
    for limits, some in pushed(metric, times, points, train_days, refit_days):
        low[some], high[some] = band(limits, times[some])
    first = int(times[0]) + int(train_days * DAY_US) if times.size else 0
    episodes = rolling(metric, times, points, train_days, refit_days)
    return Seen(metric=metric, from_us=first, t_us=times, values=points, low=low, high=high, episodes=episodes)


def band(limits: Limits, t_us: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """`limits.at` of many times at once: (low, high), NaN for a side that has no limit."""
    low, high = bounds(limits, t_us)
    return np.where(np.isinf(low), np.nan, low), np.where(np.isinf(high), np.nan, high)
