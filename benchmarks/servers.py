"""Simulates a fleet of servers over some weeks from a seed: ordinary behaviour, and faults with known times.

The same plan gives the same fleet; the faults of a plan change nothing but the samples that they strike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks import unlike_servers
from benchmarks.series import Ints
from benchmarks.server_faults import Fault, strike
from benchmarks.server_shapes import KINDS, Plan, Values, groups, load_of, lose, ordinary

BEGAN_US = 1_795_392_000_000_000  # a Monday, 00:00 UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """`values[metric, step, server]`, NaN where a sample is missing; `group[server]` is its service."""

    plan: Plan
    t_us: Ints
    values: Values
    group: Ints
    faults: tuple[Fault, ...] = ()

    @property
    def judged_from(self) -> int:
        """The first step after learning."""
        return round(self.plan.learn_days * 86_400 / self.plan.period_s)


def build(plan: Plan, *, faults: bool = True) -> Fleet:
    """The fleet of a plan, faults left out where they are not wanted; ValueError where they have no room."""
    dice = [np.random.default_rng([plan.seed, part]) for part in range(7)]
    t_us = BEGAN_US + np.arange(plan.steps, dtype=np.int64) * plan.period_s * 1_000_000
    group = groups(plan.servers, dice[0])
    kind = dice[0].integers(0, len(KINDS), int(group.max()) + 1)
    load = load_of(plan, t_us, kind, dice[1])[:, group]
    if plan.unlike:
        load = unlike_servers.loads(plan, load, dice[6])
    values = ordinary(plan, load, t_us, group, kind, dice[1:4])
    if plan.unlike:
        unlike_servers.scale(plan, values, dice[6])
    told = tuple(strike(plan, values, group, dice[4])) if faults else ()
    lose(plan, values, dice[5])
    return Fleet(plan=plan, t_us=t_us, values=values, group=group, faults=told)
