"""Limits of a metric, and the check that limits stay within the site's hard limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.durations import DAY_US, WEEK_US
from shared.ids import metric_name
from shared.messages import Priority, check_finite
from shared.thresholds.schedule import MONDAY_US, in_force, week_windows

Pair = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a metric. `low`, `high`, `lows` and `highs` are in the metric's unit.

    `lows`/`highs` hold one value for each equal slot of a `cycle`, the UTC day (24 entries: hours) or the week from
    Monday on (168: its hours), and replace `low`/`high`. Outside of `schedule` (windows of the week, see
    `schedule.week_windows`) the limits are not evaluated and an active alarm clears. `source`: configured or learned.
    `fitted_us` is when they were learned; `stale_s` later they are flagged as stale and stay in force (P6). 0: never.
    """

    metric: str
    low: float | None = None
    high: float | None = None
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()
    deadband: float = 0.0
    on_delay_s: float = 0.0
    off_delay_s: float = 0.0
    priority: Priority = "medium"
    source: Literal["fixed", "learned"] = "fixed"
    fitted_us: int = 0
    cycle: Literal["day", "week"] = "day"
    schedule: tuple[str, ...] = ()
    stale_s: float = 0.0

    def __post_init__(self) -> None:
        metric_name(self.metric)
        check_finite(f"limits of {self.metric}", self.low, self.high, self.deadband, *self.lows, *self.highs)
        check_finite(f"delays of {self.metric}", self.on_delay_s, self.off_delay_s, self.stale_s)
        if min(self.deadband, self.on_delay_s, self.off_delay_s, self.stale_s) < 0:
            raise ValueError(f"deadband and delays of {self.metric} must not be negative")
        if self.lows and self.highs and len(self.lows) != len(self.highs):
            raise ValueError(f"{self.metric} has {len(self.lows)} lows and {len(self.highs)} highs")
        week_windows(self.schedule)
        pairs = [self.slot(index) for index in range(self.slots)]
        for low, high in pairs:
            if low is not None and high is not None and low >= high:
                raise ValueError(f"low {low} of {self.metric} is not below its high {high}")
        if all(low is None and high is None for low, high in pairs):
            raise ValueError(f"limits of {self.metric} hold neither a low nor a high")

    @property
    def slots(self) -> int:
        """Number of slots of the cycle; 1 if the limits are the same at all times."""
        return max(len(self.lows), len(self.highs), 1)

    @property
    def cycle_us(self) -> int:
        """Length of the cycle in microseconds."""
        return DAY_US if self.cycle == "day" else WEEK_US

    def stale(self, now_us: int) -> bool:
        """Whether the limits were learned more than `stale_s` ago."""
        return self.stale_s > 0 and now_us - self.fitted_us > self.stale_s * 1e6

    def slot(self, index: int) -> Pair:
        """(low, high) of one slot, ignoring the schedule."""
        return (self.lows[index] if self.lows else self.low), (self.highs[index] if self.highs else self.high)

    def starts(self) -> list[int]:
        """Start of each slot in microseconds of the cycle; the first is 0."""
        return [-(-index * self.cycle_us // self.slots) for index in range(self.slots)]

    def written(self, t_us: int) -> Pair:
        """(low, high) at a UTC time, ignoring the schedule."""
        if not self.lows and not self.highs:
            return self.low, self.high
        cycle_us = self.cycle_us
        return self.slot((t_us - MONDAY_US) % cycle_us * self.slots // cycle_us)

    def at(self, t_us: int) -> Pair:
        """(low, high) in force at a UTC time."""
        if self.schedule and not in_force(self.schedule, t_us):
            return None, None
        return self.written(t_us)

    def edges(self) -> set[int]:
        """Times in microseconds of the week at which (low, high) may change."""
        cycles = range(0, WEEK_US, self.cycle_us)
        starts = {begin + start for begin in cycles for start in self.starts()}
        return starts | {edge % WEEK_US for pair in week_windows(self.schedule) for edge in pair}


def refusal(limits: Limits, site: Limits | None) -> str:
    """Why `limits` exceed the site's hard limits, or ''.

    The hub may tighten the limits of the site but never widen them (invariant P3).
    """
    if site is None:
        return ""
    for edge in sorted(limits.edges() | site.edges()):  # between two of these times neither changes
        (low, high), (least, most) = limits.at(MONDAY_US + edge), site.at(MONDAY_US + edge)
        if most is not None and (high is None or high > most):
            return f"high {high} of {limits.metric} is beyond the site's hard limit {most}"
        if least is not None and (low is None or low < least):
            return f"low {low} of {limits.metric} is beyond the site's hard limit {least}"
    return ""
