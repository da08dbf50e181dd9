"""Learn the limits of a metric from its history: replay it through `Bands`. Deterministic, no clock, no I/O."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.bands.day_ahead import NotEnough
from cloud_hub.thresholds.bands.model import Bands
from cloud_hub.thresholds.bands.settings import STANDARD, BandSettings
from cloud_hub.thresholds.bands.state import Floats, Ints
from shared.thresholds import Limits

__all__ = ["STANDARD", "BandSettings", "NotEnough", "clean", "fit"]

MOST_POINTS = 10_000
"""Longer histories are thinned: five weeks at five minutes, a few seconds of work."""


def clean(t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[Ints, Floats]:
    """Finite points in order of time, one per timestamp (duplicates become their mean).

    Both arrays are one-dimensional and of one length, times in UTC microseconds; raises ValueError otherwise.
    """
    times, points = np.asarray(t_us), np.asarray(values, dtype=np.float64)
    if times.ndim != 1 or times.shape != points.shape:
        raise ValueError(f"times {times.shape} and values {points.shape} must be one-dimensional and of one length")
    if times.size and times.dtype.kind not in "iu":
        raise ValueError(f"times must be integers (UTC microseconds), not {times.dtype}")
    keep = np.isfinite(points)
    times, points = times[keep].astype(np.int64), points[keep]
    order = np.lexsort((points, times))  # by time, then value: the order of arrival must not change the mean
    times, first, counts = np.unique(times[order], return_index=True, return_counts=True)
    if not times.size:
        return times, points
    # Adding v/n cannot overflow where adding v could.
    return times, np.add.reduceat(points[order] / np.repeat(counts, counts), first)


def fit(
    metric: str,
    t_us: npt.NDArray[Any],
    values: npt.NDArray[Any],
    *,
    now_us: int,
    settings: BandSettings = STANDARD,
    period_s: float | None = None,
) -> Limits:
    """Learn the limits of `metric` from `values` at `t_us` (UTC microseconds; any order); `now_us` is their timestamp.

    `period_s` is the usual time between samples, if they were thinned. The same data give the same limits bit for bit,
    in any order. Raises NotEnough for less than 30 usable points over a day, ValueError for arrays that do not fit
    together or numbers that overflow.
    """
    times, points = clean(t_us, values)
    every = -(-times.size // MOST_POINTS) or 1
    bands = Bands(1, settings)
    bands.learn(times[::every], points[::every, None])
    if period_s is None and times.size > 1:
        period_s = float(np.median(np.diff(times))) / 1e6
    return bands.limits(0, metric, now_us, period_s=period_s)
