"""When to scale, and how far. Pure: demand and time come in, a decision goes out; nothing is asked of a platform.

The caller's round: `observe` the demand, `decide`, and `record_action` once the platform has really been asked.
Out at once, in late: a scale-in waits until one window has been watched, obeys the window's highest demand and
leaves room for the stated noise, so that no scale-in is ever regretted on a constant load (A9).
Missing, stale or impossible demand holds (A1): what is not known is never taken for zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from shared.times import HOUR_US, SECOND_US

Direction = Literal["out", "in"]

ROUNDING = 1e-9
"""Share of a replica that rounding errors may add without calling for one more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the operator allows. `per_replica` is the demand that one replica carries, in the demand's unit.

    A swing of `noise` (a share: 0.2 is +-20 %) around a constant load never moves replicas back and forth;
    `window_s` seconds of known demand must have passed before anything is taken in.
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
    """An action that the platform was asked for."""

    t_us: int
    direction: Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandReading:
    """A known demand at its time."""

    t_us: int
    demand: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the policy remembers: actions (oldest first), demands that may still be a window's peak, since when."""

    actions: tuple[Action, ...] = ()
    demands: tuple[DemandReading, ...] = ()
    since_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`to` replicas are right, always within the bounds; the caller asks for them unless `action` is 'hold'."""

    to: int
    reason: str
    action: Literal["hold", "out", "in"]


def fresh_demand(demand: float | None, t_us: int, now_us: int, limit_s: float) -> float | None:
    """The demand when it was measured at most `limit_s` before `now_us`, else None: a stale one is not known."""
    return demand if abs(now_us - t_us) <= limit_s * SECOND_US else None


def valid_demand(demand: float | None) -> float | None:
    """The demand when it is a number that a demand can be, else None."""
    return demand if demand is not None and math.isfinite(demand) and demand >= 0 else None


def observe(bounds: Bounds, state: State, demand: float | None, now_us: int) -> State:
    """Remember one reading. After a whole window without a known demand the watch begins anew.

    A clock set back makes later times count as now, so that it neither forgets an action nor waits for ever.
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
    """Replicas that carry `demand`, within the bounds."""
    quotient = demand / bounds.per_replica
    if quotient >= bounds.maximum:  # also infinity, which ceil refuses
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
    """The right number of replicas at `now_us` (microseconds); `current` is what the platform is asked for now.

    A step is at most `max_step`, except back into the bounds: the operator's word outranks the step.
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
    """The state after the platform was asked for `decision`; a hold changes nothing. Unknown outcome: it acted."""
    if decision.action == "hold":
        return state
    horizon = now_us - max(HOUR_US, int(bounds.cooldown_s * SECOND_US))
    kept = tuple(a for a in state.actions if a.t_us > horizon)
    return replace(state, actions=(*kept, Action(t_us=now_us, direction=decision.action)))
