"""Decides when to scale, and how far. Pure: demand and time go in, a decision comes out.

The caller runs `observe`, then `decide`, and `record_action` after calling the platform. Scale-out is immediate.
Scale-in waits until a whole window has been observed, follows the highest demand of the window, and leaves headroom for
the configured noise, so that a constant load never causes a scale-in that must be reverted (A9). Missing, stale or
impossible demand holds the replicas (A1): unknown demand is never treated as zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from shared.durations import HOUR_US, SECOND_US

Direction = Literal["out", "in"]

ROUNDING = 1e-9
"""The share of a replica by which rounding errors may exceed the demand without adding a replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The configured bounds. `per_replica` is the demand that one replica carries, in the demand's unit.

    Variation of `noise` (a share: 0.2 is +-20 %) around a constant load never makes replicas oscillate. `window_s`
    seconds of known demand must have passed before a scale-in.
    """

    minimum: int
    maximum: int
    per_replica: float
    max_step: int = 2
    cooldown_s: float = 60.0
    per_hour: int = 12
    window_s: float = 300.0
    noise: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum:
            raise ValueError(f"0 <= minimum <= maximum does not hold for {self.minimum} and {self.maximum}")
        if not (math.isfinite(self.per_replica) and self.per_replica > 0):
            raise ValueError(f"per_replica must be a positive number, not {self.per_replica}")
        if self.max_step < 1 or self.per_hour < 1:
            raise ValueError("max_step and per_hour must be at least 1")
        if not all(math.isfinite(s) and s >= 0 for s in (self.cooldown_s, self.window_s)):
            raise ValueError("cooldown_s and window_s must be finite and not negative")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise must lie in 0..1, not {self.noise}")

    @property
    def headroom(self) -> float:
        """Demand that a scale-in must leave room for, as a multiple of the highest seen: 1.5 at 20 % noise."""
        return (1 + self.noise) / (1 - self.noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A scaling action that was sent to the platform."""

    t_us: int
    direction: Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandReading:
    """A known demand and its time."""

    t_us: int
    demand: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state of the policy: actions (oldest first), demands that may be the window's peak, start of observation."""

    actions: tuple[Action, ...] = ()
    demands: tuple[DemandReading, ...] = ()
    since_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The replicas to set, always within the bounds. The caller calls the platform unless `action` is 'hold'."""

    to: int
    reason: str
    action: Literal["hold", "out", "in"]


def fresh_demand(demand: float | None, t_us: int, now_us: int, limit_s: float) -> float | None:
    """The demand if it was measured at most `limit_s` before `now_us`, else None."""
    return demand if abs(now_us - t_us) <= limit_s * SECOND_US else None


def valid_demand(demand: float | None) -> float | None:
    """The demand if it is a finite number of at least 0, else None."""
    return demand if demand is not None and math.isfinite(demand) and demand >= 0 else None


def observe(bounds: Bounds, state: State, demand: float | None, now_us: int) -> State:
    """Record one reading. After a whole window without known demand, observation starts over.

    If the clock is set back, later times count as now, so that no action is forgotten and no wait is endless.
    """
    actions = tuple(replace(a, t_us=min(a.t_us, now_us)) for a in state.actions)
    edge = now_us - int(bounds.window_s * SECOND_US)
    kept = [replace(s, t_us=min(s.t_us, now_us)) for s in state.demands if s.t_us >= edge]
    value = valid_demand(demand)
    if value is None:
        return replace(state, actions=actions, demands=tuple(kept))
    since = min(state.since_us, now_us) if kept else now_us
    # A lower, older reading can never again be the peak: dropping it keeps the state small.
    kept = [s for s in kept if s.demand > value]
    return State(actions=actions, demands=(*kept, DemandReading(t_us=now_us, demand=value)), since_us=since)


def replicas_for(bounds: Bounds, demand: float) -> int:
    """The replicas that carry `demand`, within the bounds."""
    quotient = demand / bounds.per_replica
    if quotient >= bounds.maximum:  # also infinity, which ceil rejects
        return bounds.maximum
    return max(bounds.minimum, math.ceil(quotient * (1 - ROUNDING)))


def _wanted(bounds: Bounds, state: State, demand: float | None, current: int, now_us: int) -> tuple[int, str]:
    inside = min(max(current, bounds.minimum), bounds.maximum)
    if inside != current:
        return inside, f"{current} replicas lie outside {bounds.minimum}..{bounds.maximum}"
    if demand is None:
        return current, "demand is not known"
    need = replicas_for(bounds, demand)
    if need > current:
        return min(need, current + bounds.max_step), f"demand {demand:.6g} needs {need} replicas"
    if not state.demands or now_us - state.since_us < bounds.window_s * SECOND_US:
        return current, f"demand is carried; watched for less than {bounds.window_s:g} s"
    peak = max(demand, *(s.demand for s in state.demands))
    floor = replicas_for(bounds, peak * bounds.headroom * (1 + 2 * ROUNDING))  # rounding must not undo it
    if floor < current:
        return max(floor, current - bounds.max_step), f"peak {peak:.6g} with headroom needs {floor} replicas"
    return current, "demand is carried"


def _refusal(bounds: Bounds, state: State, direction: Direction, now_us: int) -> str:
    cooling = now_us - bounds.cooldown_s * SECOND_US
    if any(a.direction != direction and a.t_us > cooling for a in state.actions):
        return f"opposite action within the last {bounds.cooldown_s:g} s"
    if sum(a.t_us > now_us - HOUR_US for a in state.actions) >= bounds.per_hour:
        return f"{bounds.per_hour} actions within the last hour"
    return ""


def decide(bounds: Bounds, state: State, demand: float | None, current: int, now_us: int) -> Decision:
    """Decide the number of replicas at `now_us` (microseconds); `current` is the desired number now.

    A step is at most `max_step`, except to return into the bounds.
    """
    to, reason = _wanted(bounds, state, valid_demand(demand), current, now_us)
    if to == current:
        return Decision(to=current, reason=reason, action="hold")
    direction: Direction = "out" if to > current else "in"
    refusal = _refusal(bounds, state, direction, now_us)
    if refusal:
        inside = min(max(current, bounds.minimum), bounds.maximum)
        return Decision(to=inside, reason=f"{reason}; held: {refusal}", action="hold")
    return Decision(to=to, reason=reason, action=direction)


def record_action(bounds: Bounds, state: State, decision: Decision, now_us: int) -> State:
    """The state after `decision` was sent to the platform; an unknown outcome counts as executed."""
    if decision.action == "hold":
        return state
    horizon = now_us - max(HOUR_US, int(bounds.cooldown_s * SECOND_US))
    kept = tuple(a for a in state.actions if a.t_us > horizon)
    return replace(state, actions=(*kept, Action(t_us=now_us, direction=decision.action)))
