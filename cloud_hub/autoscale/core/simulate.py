"""Replays a load against a scaler: a fluid queue in front of identical instances. Pure.

Each step, in this order: instances that have booted begin to serve; the load arrives and is served; the step's wait is
the backlog over the capacity; then the scaler sees the step's load and the backlog, and asks for a count. More
instances serve a boot time later, fewer are gone at once. Every instance that was asked for costs, also while it boots.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cloud_hub.autoscale.core.policy import decide, record_outcome
from cloud_hub.autoscale.core.signals import Reading
from cloud_hub.autoscale.core.state import Decision, Observation, Outlook, State
from cloud_hub.autoscale.core.target import TargetPolicy
from shared.durations import SECOND_US

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LONGEST_WAIT_S = 10.0
LOAD, BACKLOG = "load", "backlog"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class World:
    """A load and the instances that serve it.

    `rate` float64 [n] is the load of each step of `step_s` seconds, the first of which ends at `start_us`; an instance
    carries `per_instance` of it. The first `unscored` steps do not count.
    """

    rate: Floats
    per_instance: float
    start_us: int = 0
    step_s: float = 60.0
    boot_s: float = 300.0
    minimum: int = 1
    maximum: int = 40
    unscored: int = 0

    @property
    def boot_steps(self) -> int:
        """The steps until a new instance serves."""
        return math.ceil(self.boot_s / self.step_s)


@dataclass(frozen=True, slots=True)
class Step:
    """What a scaler sees at the end of step `index`."""

    index: int
    t_us: int
    rate: float
    backlog: float
    desired: int
    ready: int


Scaler = Callable[[Step], int]
"""Returns the count to ask for."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Each step's asked count int64 [n], serving count int64 [n], and wait in seconds float64 [n]."""

    desired: Ints
    ready: Ints
    wait_s: Floats
    world: World

    @property
    def violations(self) -> npt.NDArray[np.bool_]:
        """Scored steps whose wait is over LONGEST_WAIT_S."""
        return self.wait_s[self.world.unscored :] > LONGEST_WAIT_S

    @property
    def violation_share(self) -> float:
        """Share of the scored steps."""
        return float(self.violations.mean()) if self.violations.size else 0.0

    @property
    def violation_minutes(self) -> float:
        """Scored minutes with a violation."""
        return float(self.violations.sum()) * self.world.step_s / 60

    @property
    def instance_hours(self) -> float:
        """Cost of the scored steps."""
        return float(self.desired[self.world.unscored :].sum()) * self.world.step_s / 3600

    @property
    def changes(self) -> int:
        """Scored steps in which the asked count changed."""
        return int(np.count_nonzero(np.diff(self.desired[self.world.unscored :])))


def replay(world: World, scaler: Scaler, first: int | None = None) -> Result:
    """Replay the load; `first` instances serve at the beginning, the minimum without."""
    n, boot = world.rate.size, world.boot_steps
    desired, ready, wait = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n)
    booted = [0] * (n + boot + 1)
    asked = serving = world.minimum if first is None else first
    backlog, step_us = 0.0, int(world.step_s * SECOND_US)
    for index, rate in enumerate(world.rate.tolist()):
        serving = min(asked, serving + booted[index])
        desired[index], ready[index] = asked, serving
        capacity = serving * world.per_instance
        backlog = max(0.0, backlog + (rate - capacity) * world.step_s)
        wait[index] = backlog / capacity if capacity > 0 else (math.inf if backlog > 0 else 0.0)
        wanted = scaler(Step(index, world.start_us + index * step_us, rate, backlog, asked, serving))
        wanted = min(max(wanted, world.minimum), world.maximum)
        if wanted > asked:
            booted[index + boot] += wanted - asked
        asked, serving = wanted, min(serving, wanted)
    return Result(desired, ready, wait, world)


class PolicyScaler:
    """The policy as a scaler. Its signals LOAD and BACKLOG are the world's; every call of the platform succeeds.

    `outlooks` are the forecasts of each step, made beforehand from the steps up to it; None where there is none.
    """

    def __init__(self, policy: TargetPolicy, outlooks: list[Outlook | None] | None = None) -> None:
        self.policy, self._outlooks, self._state = policy, outlooks, State()
        self.decisions: list[Decision] = []

    def __call__(self, step: Step) -> int:
        rules = {rule.name: rule for rule in self.policy.signals}
        values = {LOAD: step.rate, BACKLOG: step.backlog}
        observation = Observation(
            now_us=step.t_us, desired=step.desired, ready=step.ready, busy=0, fencing_token=1,
            outlook=self._outlooks[step.index] if self._outlooks is not None else None,
            readings=tuple(Reading(signal=name, value=values[name], t_us=step.t_us, unit=rule.unit)
                           for name, rule in rules.items() if name in values),
        )  # fmt: skip
        decision, self._state = decide(self.policy, self._state, observation)
        if not decision.calls:
            return step.desired
        self._state = record_outcome(self._state, decision.key, "done")
        self.decisions.append(decision)
        return decision.to


def least_hours(world: World) -> float:
    """The instance-hours of perfect foresight: each scored step has just the instances that its load needs."""
    need = np.ceil(world.rate[world.unscored :] / world.per_instance * (1 - 1e-9))
    return float(np.clip(need, world.minimum, world.maximum).sum()) * world.step_s / 3600
