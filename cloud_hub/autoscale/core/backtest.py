"""Decides on a target's own history whether prediction is worth it. Pure.

The history is replayed as a load: once by the policy with forecasts, each made from the days before it only, at several
prices of a violation; once by the HPA at several targets. Prediction is enabled if it costs less than the HPA at equal
violations, by at least LEAST_SAVED, on all scored days and on the later half of them. So it stays off where it cannot
help: short histories, and loads that move slowly against the boot time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace as changed
from typing import Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from cloud_hub.autoscale.core.curves import Point, hours_at
from cloud_hub.autoscale.core.forecast import STANDARD, Analogs, Floats, ForecastSettings
from cloud_hub.autoscale.core.hpa import count_for
from cloud_hub.autoscale.core.signals import SignalRule
from cloud_hub.autoscale.core.simulate import BACKLOG, LOAD, PolicyScaler, Result, Step, World, replay
from cloud_hub.autoscale.core.state import Outlook
from cloud_hub.autoscale.core.target import TargetPolicy
from shared.durations import DAY_US, SECOND_US

LEAST_DAYS, UNSCORED_DAYS = 3, 1
LEAST_SAVED = 0.02
WORTHS = (0.5, 1.0, 2.0)
"""Prices of a violation that are tried, as multiples of the policy's own."""
TARGETS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the backtest found, over `days` scored days.

    `violations` and `hours` (instance-hours) are those of the policy with forecasts at its own price; `hpa_hours` those
    of the HPA at the same violations, None if it never gets there.
    """

    enabled: bool
    reason: str
    days: int
    violations: float = 0.0
    hours: float = 0.0
    hpa_hours: float | None = None
    saved: float | None = None


class Reactive:
    """The HPA's rule at a target utilization, with a scale-in window."""

    def __init__(self, world: World, target: float, window_s: float = 300.0) -> None:
        self._world, self._aim = world, world.per_instance * target
        self._recent: deque[int] = deque(maxlen=max(1, round(window_s / world.step_s)))

    def __call__(self, step: Step) -> int:
        count = count_for(step.desired, step.rate + step.backlog / 60, self._aim)
        count = min(max(count, self._world.minimum), self._world.maximum)
        self._recent.append(count)
        return count if count > step.desired else min(step.desired, max(self._recent))


def outlooks(world: World, settings: ForecastSettings = STANDARD, every: int = 1) -> list[Outlook | None]:
    """The forecast of each step from the steps up to it; a new one each `every` steps."""
    analogs = Analogs(world.rate, world.start_us, world.step_s, world.per_instance, settings)
    found: list[Outlook | None] = []
    step_us = int(world.step_s * SECOND_US)
    for index in range(world.rate.size):
        if index % every == 0 or not found:
            found.append(analogs.at(index, world.boot_s, LOAD))
        else:
            last = found[-1]
            found.append(None if last is None else replace(last, t_us=world.start_us + index * step_us))
    return found


def single(
    policy: TargetPolicy, rule: SignalRule, worth: float | None = None, mode: Literal["always", "never"] = "always"
) -> TargetPolicy:
    """The policy with the one signal `rule`, and its backlog, as the simulator knows them."""
    load = replace(rule, name=LOAD, required=True)
    waiting = SignalRule(name=BACKLOG, per_instance=rule.per_instance, kind="backlog", adds_to=LOAD)
    prediction = replace(policy.prediction, mode=mode, worth=worth or policy.prediction.worth)
    return replace(policy, signals=(load, waiting), prediction=prediction, minimum=max(1, policy.minimum))


def whole_days(demand: Floats, start_us: int, step_s: float) -> tuple[Floats, int]:
    """The last whole days of a history, and the time of their first step."""
    day = round(DAY_US / (step_s * SECOND_US))
    first = demand.size % day if demand.size >= day else demand.size
    return demand[first:], start_us + first * int(step_s * SECOND_US)


def backtest(policy: TargetPolicy, rule: SignalRule, demand: Floats, start_us: int, step_s: float = 60.0) -> Report:
    """Replay `demand` float64 [n] of signal `rule`, in its unit, one value each `step_s`; NaN where unknown."""
    demand, start_us = whole_days(demand, start_us, step_s)
    days = round(demand.size * step_s / 86_400)
    known = np.isfinite(demand)
    if days < LEAST_DAYS or known.mean() < 0.9:
        return Report(enabled=False, reason=f"{days} whole days of history; {LEAST_DAYS} are needed", days=0)
    filled = np.interp(np.arange(demand.size), np.flatnonzero(known), demand[known])
    unscored = round(UNSCORED_DAYS * 86_400 / step_s)
    world = World(
        rate=filled, per_instance=rule.per_instance, start_us=start_us, step_s=step_s, boot_s=policy.boot_s,
        minimum=max(1, policy.minimum), maximum=policy.maximum, unscored=unscored,
    )  # fmt: skip
    ahead = outlooks(world, every=world.boot_steps)
    ours = [replay(world, PolicyScaler(single(policy, rule, policy.prediction.worth * k), ahead)) for k in WORTHS]
    theirs = [replay(world, Reactive(world, target)) for target in TARGETS]
    whole = _compare(ours, theirs, unscored)
    later = _compare(ours, theirs, (unscored + filled.size) // 2)
    return _report(whole, later, days - UNSCORED_DAYS)


def _compare(ours: list[Result], theirs: list[Result], first: int) -> tuple[float, float, float | None]:
    """Violations and hours of the policy at its own price, and the HPA's hours at equal violations."""
    own = _point(ours[WORTHS.index(1.0)], first)
    hours = hours_at([_point(result, first) for result in theirs], own.violations)
    mine = hours_at([_point(result, first) for result in ours], own.violations)
    return own.violations, mine, None if np.isnan(hours) else hours


def _point(result: Result, first: int) -> Point:
    part = Result(result.desired, result.ready, result.wait_s, changed(result.world, unscored=first))
    return Point("", part.violation_share, part.instance_hours, part.changes)


def _report(whole: tuple[float, float, float | None], later: tuple[float, float, float | None], days: int) -> Report:
    violations, hours, hpa = whole
    saved = None if hpa is None else 1 - hours / hpa
    saved_later = None if later[2] is None else 1 - later[1] / later[2]
    wins = saved is None or saved >= LEAST_SAVED
    wins_later = saved_later is None or saved_later >= LEAST_SAVED
    share = "the HPA never has as few violations" if saved is None else f"{saved:.1%} cheaper at equal violations"
    if wins and wins_later:
        reason = f"over {days} days {share}"
    elif wins:
        reason = f"over {days} days {share}, but not in the later half"
    else:
        reason = f"over {days} days only {share}; {LEAST_SAVED:.0%} are needed"
    return Report(
        enabled=wins and wins_later, reason=reason, days=days, violations=violations, hours=hours, hpa_hours=hpa,
        saved=saved,
    )  # fmt: skip
