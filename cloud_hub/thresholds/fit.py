"""Learn the band of a metric from its history: robust, deterministic, small. No clock, no I/O.

The band follows the hour of the (UTC) day where the history shows one, and is a single one where it does not.
Centre: median of each hour, smoothed over its neighbours. Spread: median absolute residual of each hour,
smoothed alike. Width: the tails of the standardised residuals, beyond a high quantile taken as exponential and
extrapolated to the share of samples that may lie outside. Weekdays, trends and shifts of level are left to the
next fit; what this band cannot do a full model must.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.thresholds import DAY_US, Limits

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LN2 = float(np.log(2.0))


class NotEnough(ValueError):
    """The history holds too few usable points to learn a band from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How a band is learned. Shares are of samples, delays in sampling periods, widths relative to |median|.

    `outside` is the share of ordinary samples allowed beyond each side. Three crossings in a row raise
    (`on_periods` 2): a lone spike is no alarm. Six samples back inside clear (`off_periods` 5): an alarm that
    flickers is one alarm. `deadband` is in units of the spread.
    """

    min_points: int = 200
    slots: int = 24
    min_days: float = 3.0
    min_per_slot: int = 12
    worth: float = 0.1
    tail: float = 0.02
    outside: float = 1e-3
    least_width: float = 0.01
    deadband: float = 1.0
    on_periods: int = 2
    off_periods: int = 5

    def __post_init__(self) -> None:
        if not (0.0 < self.outside <= self.tail < 0.5):
            raise ValueError("outside must lie above 0 and not beyond tail, tail below 0.5")
        if min(self.min_points, self.slots, self.min_per_slot) < 1 or min(self.on_periods, self.off_periods) < 0:
            raise ValueError("min_points, slots and min_per_slot must be at least 1, periods at least 0")
        if self.least_width <= 0 or self.deadband < 0 or self.min_days < 0:
            raise ValueError("least_width must be above 0, deadband and min_days at least 0")


STANDARD = FitSettings()


def clean(t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[Ints, Floats]:
    """Finite points in order of time, one a timestamp (duplicates become their mean).

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
    metric: str, t_us: npt.NDArray[Any], values: npt.NDArray[Any], *, now_us: int, settings: FitSettings = STANDARD
) -> Limits:
    """Learn the limits of `metric` from `values` at `t_us` (UTC microseconds; any order); `now_us` stamps them.

    The same data give the same limits bit for bit, in whatever order they come. Raises NotEnough below
    `settings.min_points` usable points, ValueError for arrays that do not fit together or numbers that overflow.
    """
    times, points = clean(t_us, values)
    if times.size < settings.min_points:
        raise NotEnough(f"{metric} has {times.size} usable points; a band needs {settings.min_points}")
    with np.errstate(over="ignore", invalid="ignore"):  # Limits refuses what is not finite
        slots = _slots(times, points, settings)
        count = int(slots.max()) + 1
        centre = _smooth(_medians(points, slots, count))
        residuals = points - centre[slots]
        spread = _spread(residuals, slots, count, points, settings)
        scores = residuals / spread[slots]
        least = settings.least_width * max(abs(float(np.median(points))), 1e-6)
        up = np.maximum(_reach(scores, settings) * spread, least)
        down = np.maximum(_reach(-scores, settings) * spread, least)
        lows, highs = (centre - down).tolist(), (centre + up).tolist()
    period_s = float(np.median(np.diff(times))) / 1e6
    return Limits(
        metric=metric,
        low=min(lows),
        high=max(highs),
        lows=tuple(lows) if count > 1 else (),
        highs=tuple(highs) if count > 1 else (),
        deadband=min(settings.deadband * float(spread.min()), float(np.min(up + down)) / 4),
        on_delay_s=settings.on_periods * period_s,
        off_delay_s=settings.off_periods * period_s,
        source="learned",
        fitted_us=now_us,
    )


def _slots(times: Ints, points: Floats, settings: FitSettings) -> Ints:
    """The slot of the day of each point, as `Limits.at` counts it; all 0 where hours are not known or tell nothing."""
    single = np.zeros(times.size, dtype=np.int64)
    slots = times % DAY_US * settings.slots // DAY_US
    enough = np.bincount(slots, minlength=settings.slots).min() >= settings.min_per_slot
    if not enough or times[-1] - times[0] < settings.min_days * DAY_US:
        return single
    centre = _smooth(_medians(points, slots, settings.slots))
    plain = float(np.abs(points - np.median(points)).mean())
    hourly = float(np.abs(points - centre[slots]).mean())
    # Medians of hours always explain a little of the very data they came from; they must earn their 48 numbers.
    return slots if hourly < plain * (1 - settings.worth) else single


def _medians(values: Floats, slots: Ints, count: int) -> Floats:
    return np.array([np.median(values[slots == slot]) for slot in range(count)])


def _smooth(ring: Floats) -> Floats:
    """Weights 1-2-1 round the day, so that the band has no cliff at the full hour; one slot stays as it is."""
    return ring / 2 + np.roll(ring, 1) / 4 + np.roll(ring, -1) / 4


def _spread(residuals: Floats, slots: Ints, count: int, points: Floats, settings: FitSettings) -> Floats:
    """Median absolute residual of each slot, at least half of the overall one and never 0."""
    size = np.abs(residuals)
    # More than half of the points may be equal; then the median is 0 and the mean of the rest must do.
    overall = float(np.median(size)) or float(size.mean())
    floor = settings.least_width * max(abs(float(np.median(points))), 1e-6) / 4
    return np.maximum(_smooth(_medians(size, slots, count)), max(overall / 2, floor))


def _reach(scores: Floats, settings: FitSettings) -> float:
    """How far up ordinary scores go: the score beyond which a share `outside` is expected to lie.

    From the quantile at 1 - `tail` on the tail is exponential, its scale from the median excess: anomalies in the
    history are a small part of the tail and move a mean far, a median little.
    """
    start = float(np.quantile(scores, 1 - settings.tail))
    excess = scores[scores > start] - start
    scale = float(np.median(excess)) / LN2 if excess.size else 0.0
    return max(start, 0.0) + scale * float(np.log(settings.tail / settings.outside))
