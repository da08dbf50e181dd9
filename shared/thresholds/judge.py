"""Compares a value with its limits and raises or clears an alarm. All state is in JudgeState."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from shared.protocol.messages import AlarmKind
from shared.thresholds.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeState:
    """State of one rule: the active alarm, and since when the opposite has been observed (`pending`, `since_us`)."""

    active: AlarmKind | None = None
    pending: AlarmKind | None = None
    since_us: int = 0
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """An alarm is raised or cleared; `limit` is the limit that was crossed."""

    state: Literal["raised", "cleared"]
    kind: AlarmKind
    limit: float


Judged = tuple[JudgeState, Transition | None]


def judge(limits: Limits, state: JudgeState, t_us: int, value: float | None) -> Judged:
    """Evaluate one value: returns the new state and the transition, if any. A missing value changes nothing.

    A value that is NaN or infinite counts as missing. A violation must last `on_delay_s` to raise the alarm and be
    over for `off_delay_s` to clear it. A change from above high to below low first clears the alarm; the other one is
    raised by a later sample.
    """
    if value is None or not math.isfinite(value):
        return state, None
    seen, limit = _crossed(limits, state, t_us, value)
    return apply_delays(state, t_us, seen, limit, limits.on_delay_s, limits.off_delay_s)


def apply_delays(
    state: JudgeState, t_us: int, seen: AlarmKind | None, limit: float, on_delay_s: float, off_delay_s: float
) -> Judged:
    """Apply on-delay and off-delay to the violation observed now (`seen`, None without one)."""
    if seen == state.active:
        return (replace(state, pending=None, since_us=0) if state.since_us else state), None
    # Restart the delay when the clock stepped back, or the alarm would wait until the clock has caught up.
    if not 0 < state.since_us <= t_us or (state.active is None and seen != state.pending):
        state = replace(state, pending=seen, since_us=t_us)
    if state.active is None:
        if seen is None or not _due(state.since_us, t_us, on_delay_s):
            return state, None
        return JudgeState(active=seen), Transition(state="raised", kind=seen, limit=limit)
    if not _due(state.since_us, t_us, off_delay_s):
        return state, None
    return JudgeState(), Transition(state="cleared", kind=state.active, limit=limit)


def _crossed(limits: Limits, state: JudgeState, t_us: int, value: float) -> tuple[AlarmKind | None, float]:
    """The limit that `value` violates, and its value. An active alarm clears only beyond the deadband."""
    low, high = limits.at(t_us)
    if high is not None and value > high - (limits.deadband if state.active == "high" else 0.0):
        return "high", high
    if low is not None and value < low + (limits.deadband if state.active == "low" else 0.0):
        return "low", low
    low, high = limits.written(t_us)
    limit = high if state.active == "high" else low
    return None, limit if limit is not None else 0.0


def _due(since_us: int, t_us: int, delay_s: float) -> bool:
    return t_us - since_us >= delay_s * 1_000_000
