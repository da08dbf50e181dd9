"""What ours would have done with a series: band and alarms over its past, learned from the past alone. Pure.

The one place that knows which model stands behind a backtest: comparisons and plots take `Seen` and ask no further.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.backtest import Episode, rolling
from cloud_hub.thresholds.fit import NotEnough, clean, fit
from shared.thresholds import DAY_US, Limits

Floats = npt.NDArray[np.float64]


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
    metric: str, t_us: npt.NDArray[Any], values: npt.NDArray[Any], *, train_days: float, refit_days: float = 1.0,
    keep_days: float = 28.0,
) -> Seen:  # fmt: skip
    """Judge a series (UTC microseconds, any order; NaN is no value) as the hub would have, day by day.

    The first `train_days` are for learning. Raises ValueError unless the days are above 0.
    """
    episodes = rolling(metric, t_us, values, train_days, refit_days, keep_days=keep_days)
    times, points = clean(t_us, values)
    low, high = np.full(times.size, np.nan), np.full(times.size, np.nan)
    first = int(times[0]) + int(train_days * DAY_US) if times.size else 0
    limits: Limits | None = None
    for start in range(first, int(times[-1]) + 1 if times.size else 0, int(refit_days * DAY_US)):
        past = slice(times.searchsorted(start - int(keep_days * DAY_US)), times.searchsorted(start))
        with suppress(NotEnough):
            limits = fit(metric, times[past], points[past], now_us=start)
        if limits is not None:
            ahead = slice(times.searchsorted(start), times.searchsorted(start + int(refit_days * DAY_US)))
            low[ahead], high[ahead] = band(limits, times[ahead])
    return Seen(metric=metric, from_us=first, t_us=times, values=points, low=low, high=high, episodes=episodes)


def band(limits: Limits, t_us: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """`limits.at` of many times at once: (low, high), NaN for a side that has no limit."""
    starts = np.array(limits.starts(), dtype=np.int64)
    pairs = [limits.at(int(start)) for start in starts]
    slots = starts.searchsorted(t_us % DAY_US, side="right") - 1
    low, high = (np.array([np.nan if one is None else one for one in side]) for side in zip(*pairs, strict=True))
    return low[slots], high[slots]
