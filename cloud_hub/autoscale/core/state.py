"""What a decision is made from, and what it is. All are plain data that can be stored and replayed. Pure.

The shell's turn:

    decision, state = decide(policy, state, observation)    # policy.py
    store state and decision in one transaction
    if decision.calls: outcome = platform.scale(decision.to, decision.key, decision.fencing_token)
    state = record_outcome(state, decision.key, outcome); store it
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import msgspec

from cloud_hub.autoscale.core.signals import Reading

Direction = Literal["out", "in"]
ActionKind = Literal["hold", "out", "in", "retry"]
Outcome = Literal["done", "refused", "unknown"]


class _Plain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plain data."""


class Outlook(_Plain, frozen=True, kw_only=True):
    """A forecast of the demand on `signal`, as quantiles at `forecast.PROBABILITIES` in its unit, made at `t_us`.

    `soon` is over the time until an instance asked for now serves, `later` over `hold_s` seconds after it. `samples` is
    the effective number of past moments behind it.
    """

    signal: str
    t_us: int
    soon: tuple[float, ...]
    later: tuple[float, ...]
    hold_s: float
    samples: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether the quantiles are finite, not negative and in order."""
        return self.hold_s > 0 and all(
            values and values[0] >= 0 and math.isfinite(values[-1]) and all(a <= b for a, b in pairwise(values))
            for values in (self.soon, self.later)
        )


class Observation(_Plain, frozen=True, kw_only=True):
    """What is known at `now_us`. None: unknown.

    `desired` and `ready` are the platform's instances, `busy` those with work, `draining_busy` those of them that were
    told to take no more. `outlook` is given only while prediction is enabled for the target. `fencing_token` is this
    hub's lease, or None if another hub holds it.
    """

    now_us: int
    desired: int | None
    ready: int | None = None
    busy: int | None = None
    draining_busy: int | None = None
    readings: tuple[Reading, ...] = ()
    outlook: Outlook | None = None
    fencing_token: int | None = None


class Action(_Plain, frozen=True, kw_only=True):
    """A step that was sent to the platform, or may have been."""

    t_us: int
    direction: Direction
    before: int
    to: int


class Wanted(_Plain, frozen=True, kw_only=True):
    """A recommendation within the stabilization window."""

    t_us: int
    count: int


class Pending(_Plain, frozen=True, kw_only=True):
    """A decision whose outcome is not known."""

    key: str
    before: int
    to: int
    t_us: int


class Drain(_Plain, frozen=True, kw_only=True):
    """Instances beyond `to` take no new work since `since_us`; busy ones may finish until the deadline."""

    to: int
    since_us: int


class Spend(_Plain, frozen=True, kw_only=True):
    """Money spent in the UTC day `day` (days since the epoch) until `t_us`, at `count` instances since then."""

    day: int = 0
    amount: float = 0.0
    t_us: int = 0
    count: int = 0


class Calm(_Plain, frozen=True, kw_only=True):
    """A time since `since_us` in which the load stayed within its noise: from `low` to `high`, in instances' worth.

    `mistakes` counts scale-ins that had to be reverted.
    """

    since_us: int
    low: float
    high: float
    mistakes: int = 0


class State(_Plain, frozen=True, kw_only=True):
    """What the policy remembers of a target; bounded by its windows.

    `last` is the platform's count that is believed, `seen` the last one that was read.
    """

    actions: tuple[Action, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    known_since_us: int | None = None
    idle_since_us: int | None = None
    pending: Pending | None = None
    drain: Drain | None = None
    spend: Spend = Spend()
    calm: Calm | None = None
    last: int | None = None
    seen: int | None = None
    sequence: int = 0


class Candidate(_Plain, frozen=True, kw_only=True):
    """A count that one rule asks for (`count`), or to which one limits it (`limit`)."""

    rule: str
    count: int
    reason: str


class Decision(_Plain, frozen=True, kw_only=True):
    """The decision. `to` lies within the bounds; `candidates` says why, in the order in which the rules were applied.

    `key` is the idempotency key of the call: a retry has the same. `keeps` are the instances that may take work, fewer
    than `to` while some drain: the shell tells the others to take no more.
    """

    t_us: int
    action: ActionKind
    before: int | None
    to: int
    keeps: int
    reason: str
    candidates: tuple[Candidate, ...] = ()
    key: str = ""
    fencing_token: int | None = None

    @property
    def calls(self) -> bool:
        """Whether the platform is to be called."""
        return self.action in {"out", "in", "retry"}
