"""The judge: from a value and its limits to an alarm that begins or ends. Everything it remembers is a JudgeState."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from shared.messages import AlarmKind
from shared.thresholds.limits import Limits


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


Judged = tuple[JudgeState, Transition | None]


def judge(limits: Limits, state: JudgeState, t_us: int, value: float | None) -> Judged:
    """Judge one value: the new state, and the transition it makes, if any. A missing value changes nothing.

    A value that is NaN or infinite counts as missing. A crossing must last `on_delay_s` to raise and its
    absence `off_delay_s` to clear. A change from high straight to low clears first; the other alarm follows
    with a later sample.
    """
    if value is None or not math.isfinite(value):
        return state, None
    seen, limit = _crossed(limits, state, t_us, value)
    return apply_delays(state, t_us, seen, limit, limits.on_delay_s, limits.off_delay_s)


def apply_delays(
    state: JudgeState, t_us: int, seen: AlarmKind | None, limit: float, on_delay_s: float, off_delay_s: float
) -> Judged:
    """What follows from what is `seen` at a time, a crossing or None: the delays' part of the judge."""
    if seen == state.active:
        return (replace(state, pending=None, since_us=0) if state.since_us else state), None
    # A clock that stepped back must not hold an alarm up until it is where it was: begin to count anew.
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
    """The limit that `value` crosses (a standing alarm is left only beyond the deadband), and its value."""
    low, high = limits.at(t_us)
    if high is not None and value > high - (limits.deadband if state.active == "high" else 0.0):
        return "high", high
    if low is not None and value < low + (limits.deadband if state.active == "low" else 0.0):
        return "low", low
    low, high = limits.written(t_us)
    standing = high if state.active == "high" else low
    return None, standing if standing is not None else 0.0


def _due(since_us: int, t_us: int, delay_s: float) -> bool:
    return t_us - since_us >= delay_s * 1_000_000
