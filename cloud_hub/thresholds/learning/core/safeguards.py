"""Safeguards of learning, so that a fault does not become normal. Pure.

Samples inside alarms that nobody judged false are left out. The rest must span CYCLES days: limits follow at least the
daily cycle (hours of the week only after two weeks), and one day does not show how days differ. Limits are no narrower
than the scale of the data, and stay within the range that the metric declares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cloud_hub.thresholds.backtest.core.replay import Window
from cloud_hub.thresholds.bands.day_ahead import NotEnough
from cloud_hub.thresholds.bands.state import Flags, Floats, Ints
from shared.durations import DAY_US
from shared.thresholds import Limits

CYCLES = 3
"""Days that must be spanned, and on which there must be samples."""
SLACK_US = DAY_US // 24
"""Fraction of a day that may be missing from them."""
OF_RANGE = 0.005
"""Limits lie at least this share of the declared range from their middle."""
DEADBAND = 0.1
"""The least deadband, as a share of the least distance from the middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A series' context: alarms and missed faults that are not learned from, since when an alarm of its limits is
    active (0: none is), and the range that its metric declares.
    """

    alarms: tuple[Window, ...] = ()
    standing_us: int = 0
    low: float | None = None
    high: float | None = None


def ordinary(t_us: Ints, alarms: Sequence[Window]) -> Flags:
    """A mask of the times that lie outside of all alarms."""
    keep = np.ones(t_us.shape, bool)
    for one in alarms:
        keep &= (t_us < one.start_us) | (t_us > one.end_us)
    return keep


def enough(metric: str, t_us: Ints, left_out: int) -> None:
    """Raises NotEnough where ordinary samples, ascending, span less than CYCLES days; `left_out` lie in alarms."""
    without = f"; {left_out} in alarms that nobody judged false are not learned from" if left_out else ""
    if t_us.size < 2:
        raise NotEnough(f"{metric} has {t_us.size} usable points{without}")
    span_us = int(t_us[-1] - t_us[0]) + int(np.median(np.diff(t_us)))
    days = np.unique((t_us - t_us[0]) // DAY_US).size
    if span_us < CYCLES * DAY_US - SLACK_US or days < CYCLES:
        raise NotEnough(
            f"{metric} has {t_us.size} usable points over {span_us / DAY_US:.1f} days, on {days} of them; limits need "
            f"{CYCLES} days{without}"
        )


def bounded(limits: Limits, values: Floats, known: Known) -> Limits:
    """The limits, no narrower than the scale of the `values` they were learned from, and within the declared range.

    Raises ValueError if nothing of them is left, or if the scale is unknown: a series that was always 0.
    """
    range_ = 0.0 if known.low is None or known.high is None else known.high - known.low
    steps = np.diff(np.unique(values))
    scale = max(range_ * OF_RANGE, float(steps.min()) if steps.size else abs(float(values[0])) * OF_RANGE)
    if not scale > 0:
        raise ValueError(f"{limits.metric} was always 0 and declares no range: set its limit by hand")
    sides = [limits.slot(index) for index in range(limits.slots)]
    pairs = [_inside(low, high, scale, known) for low, high in sides if low is not None and high is not None]
    if any(low >= high for low, high in pairs):
        raise ValueError(f"{limits.metric} was beyond its declared range of {known.low} to {known.high}")
    lows, highs = tuple(low for low, _ in pairs), tuple(high for _, high in pairs)
    narrowest = min(high - low for low, high in pairs)
    many = len(pairs) > 1
    return replace(
        limits, low=min(lows), high=max(highs), lows=lows if many else (), highs=highs if many else (),
        deadband=min(max(limits.deadband, DEADBAND * scale), narrowest / 4),
    )  # fmt: skip


def _inside(low: float, high: float, scale: float, known: Known) -> tuple[float, float]:
    middle, half = low / 2 + high / 2, max(high / 2 - low / 2, scale)
    least = -np.inf if known.low is None else known.low
    most = np.inf if known.high is None else known.high
    return max(middle - half, float(least)), min(middle + half, float(most))
