"""Limits on a metric and the one judge of them: the device runs it live, the hub backtests with it.

Words of ISA-18.2: deadband, on-delay, off-delay. Time is the sample's own (`t_us`), so a replay judges
as the device did. Fitting limits is the hub's alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from shared.ids import metric_name
from shared.messages import AlarmKind, Priority, finite

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a metric may do. All of `low`, `high`, `lows`, `highs` are in the metric's unit.

    `lows`/`highs` hold one value for each equal slot of a UTC day (24 entries: hours) and, where
    present, take the place of `low`/`high`. `source` says who set them; `fitted_us` when they were learned: after
    `stale_s` from then they are flagged as stale, and stay in force (P6). 0: never.
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
    stale_s: float = 0.0

    def __post_init__(self) -> None:
        metric_name(self.metric)
        finite(f"limits of {self.metric}", self.low, self.high, self.deadband, *self.lows, *self.highs)
        finite(f"delays of {self.metric}", self.on_delay_s, self.off_delay_s, self.stale_s)
        if min(self.deadband, self.on_delay_s, self.off_delay_s, self.stale_s) < 0:
            raise ValueError(f"deadband and delays of {self.metric} must not be negative")
        if self.lows and self.highs and len(self.lows) != len(self.highs):
            raise ValueError(f"{self.metric} has {len(self.lows)} lows and {len(self.highs)} highs")
        for low, high in self._pairs():
            if low is not None and high is not None and low >= high:
                raise ValueError(f"low {low} of {self.metric} is not below its high {high}")
        if all(low is None and high is None for low, high in self._pairs()):
            raise ValueError(f"limits of {self.metric} hold neither a low nor a high")

    def _pairs(self) -> list[tuple[float | None, float | None]]:
        slots = max(len(self.lows), len(self.highs), 1)
        return [self._slot(index, slots) for index in range(slots)]

    def _slot(self, index: int, slots: int) -> tuple[float | None, float | None]:
        low = self.lows[index * len(self.lows) // slots] if self.lows else self.low
        high = self.highs[index * len(self.highs) // slots] if self.highs else self.high
        return low, high

    def starts(self) -> list[int]:
        """The times of day, in microseconds, at which the slots begin; 0 is the first."""
        slots = max(len(self.lows), len(self.highs), 1)
        return [-(-index * DAY_US // slots) for index in range(slots)]

    def stale(self, now_us: int) -> bool:
        """Whether they were learned so long ago that somebody should be told."""
        return self.stale_s > 0 and now_us - self.fitted_us > self.stale_s * 1e6

    def at(self, t_us: int) -> tuple[float | None, float | None]:
        """(low, high) in force at a UTC time."""
        slots = max(len(self.lows), len(self.highs), 1)
        return self._slot(t_us % DAY_US * slots // DAY_US, slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeState:
    """What the judge remembers of one metric: the alarm that stands, and since when its opposite is seen."""

    active: AlarmKind | None = None
    pending: AlarmKind | None = None
    since_us: int = 0
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """An alarm begins or ends at this sample; `limit` is the limit that was crossed or left."""

    state: Literal["raised", "cleared"]
    kind: AlarmKind
    limit: float


def _crossed(limits: Limits, state: JudgeState, t_us: int, value: float) -> tuple[AlarmKind | None, float]:
    """The limit that `value` crosses (a standing alarm is left only beyond the deadband), and its value."""
    low, high = limits.at(t_us)
    if high is not None and value > high - (limits.deadband if state.active == "high" else 0.0):
        return "high", high
    if low is not None and value < low + (limits.deadband if state.active == "low" else 0.0):
        return "low", low
    standing = high if state.active == "high" else low
    return None, standing if standing is not None else 0.0


def _due(since_us: int, t_us: int, delay_s: float) -> bool:
    return t_us - since_us >= delay_s * 1_000_000


def judge(limits: Limits, state: JudgeState, t_us: int, value: float | None) -> tuple[JudgeState, Transition | None]:
    """Judge one value: the new state, and the transition it makes, if any. A missing value changes nothing.

    A value that is NaN or infinite counts as missing. A crossing must last `on_delay_s` to raise and its
    absence `off_delay_s` to clear. A change from high straight to low clears first; the other alarm follows
    with a later sample.
    """
    if value is None or not math.isfinite(value):
        return state, None
    seen, limit = _crossed(limits, state, t_us, value)
    if seen == state.active:
        return (replace(state, pending=None, since_us=0) if state.since_us else state), None
    # A clock that stepped back must not hold an alarm up until it is where it was: begin to count anew.
    if not 0 < state.since_us <= t_us or (state.active is None and seen != state.pending):
        state = replace(state, pending=seen, since_us=t_us)
    if state.active is None:
        if seen is None or not _due(state.since_us, t_us, limits.on_delay_s):
            return state, None
        return JudgeState(active=seen), Transition(state="raised", kind=seen, limit=limit)
    if not _due(state.since_us, t_us, limits.off_delay_s):
        return state, None
    return JudgeState(), Transition(state="cleared", kind=state.active, limit=limit)


def refusal(limits: Limits, site: Limits | None) -> str:
    """Why `limits` may not be used under the site's own hard limits, or '' when they may.

    The hub may tighten what the site allows, never widen it (invariant P3).
    """
    if site is None:
        return ""
    for t_us in sorted({*limits.starts(), *site.starts()}):  # between two of these times neither changes
        (low, high), (least, most) = limits.at(t_us), site.at(t_us)
        if most is not None and (high is None or high > most):
            return f"high {high} of {limits.metric} is beyond the site's hard limit {most}"
        if least is not None and (low is None or low < least):
            return f"low {low} of {limits.metric} is beyond the site's hard limit {least}"
    return ""
