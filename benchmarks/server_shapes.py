"""Simulates the ordinary behaviour of servers from a seed: the part of `benchmarks.servers` without faults.

Services (groups of servers) have daily and weekly seasonality, shared bursts and lasting load changes; servers differ,
restart, lose samples, run nightly and hourly jobs; deploys roll over a service and sometimes leave a lasting shift;
memory grows and is collected, disks fill and are cleaned, latency follows utilisation and has a heavy tail, errors are
counts. All of that is ordinary: an alarm on it is false. It was written before any model was tried on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.series import Floats, Ints
from shared.durations import DAY_US, HOUR_US

METRICS = ("cpu", "memory", "disk", "requests", "latency", "errors")
CPU, MEMORY, DISK, REQUESTS, LATENCY, ERRORS = range(6)
KINDS = ("web", "api", "database", "cache", "batch", "queue")
Rng = np.random.Generator
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size of a fleet. `learn_days` come before `weeks`, without faults; `each` faults of every kind follow.

    `unlike`: servers of one service have loads, courses, scales and cron jobs of their own. `unlisted`: beside
    the eight kinds of fault, as many of eight kinds that the detectors were not designed for.
    """

    servers: int = 1000
    weeks: float = 4.0
    learn_days: float = 7.0
    period_s: int = 300
    each: int = 6
    seed: int = 7
    unlike: bool = False
    unlisted: bool = False

    @property
    def steps(self) -> int:
        """Samples of each series."""
        return round((self.learn_days + 7 * self.weeks) * 86_400 / self.period_s)


def groups(servers: int, dice: Rng) -> Ints:
    """Services of 4 to 60 servers, most of them small."""
    group = np.empty(servers, dtype=np.int64)
    at, name = 0, 0
    while at < servers:
        size = int(np.clip(dice.lognormal(2.8, 0.7), 4, 60))
        group[at : at + size], at, name = name, at + size, name + 1
    return group


def _walk(dice: Rng, steps: int, n: int, keep: float, sd: float) -> Floats:
    """n autoregressive courses around 0 with standard deviation `sd`; `keep` is what is left after a step."""
    found = dice.normal(0, sd * np.sqrt(1 - keep**2), (steps, n))
    found[0] = dice.normal(0, sd, n)
    for k in range(1, steps):
        found[k] += keep * found[k - 1]
    return found


def _times(dice: Rng, plan: Plan, a_week: float, first: float = 0.0) -> Ints:
    """Steps at which something happens that comes `a_week` times a week."""
    count = dice.poisson(a_week * plan.steps * plan.period_s / 604_800)
    return np.asarray(np.sort(dice.integers(int(first), plan.steps, count)), dtype=np.int64)


def ordinary(plan: Plan, load: Floats, t_us: Ints, group: Ints, kind: Ints, dice: list[Rng]) -> Values:
    """All that is no fault, [metric, step, server]; `load` [step, server] is that of each server."""
    hour = 3600 / plan.period_s
    n = len(group)
    share = dice[1].lognormal(0, 0.12, n)
    host = 1 + _walk(dice[1], plan.steps, n, np.exp(-0.3 / hour), 0.03) + dice[1].normal(0, 0.02, (plan.steps, n))
    relative = np.maximum(load * share * host, 0.0)
    top = dice[1].lognormal(4.5, 1.0, len(kind))[group]
    jobs = _jobs(plan, t_us, group, kind, dice[1])
    deploys = _deploys(plan, group, t_us, dice[2])
    values = np.empty((len(METRICS), plan.steps, n), dtype=np.float32)
    values[REQUESTS] = dice[1].poisson(np.minimum(relative * top * 60, 1e9)) / 60
    weight = dice[1].uniform(12, 45, len(kind))[group]
    cpu = dice[1].uniform(1, 6, n) + weight * relative * deploys.cost + jobs + deploys.stir
    values[CPU] = np.clip(cpu + dice[1].normal(0, 1, cpu.shape) * (0.6 + 0.03 * cpu), 0.2, 100)
    values[MEMORY] = _memory(plan, kind[group], deploys, dice[2])
    values[DISK] = _disk(plan, t_us, kind[group], jobs, dice[2])
    used = np.clip(cpu / 100, 0, 0.93)
    latency = dice[1].lognormal(3, 0.8, len(kind))[group] * (1 + 0.5 * used / (1 - used)) * deploys.slowness
    tail = 1 + (dice[1].random(latency.shape) < 0.002) * dice[1].pareto(2.5, latency.shape)
    values[LATENCY] = latency * dice[1].lognormal(0, 0.07, latency.shape) * tail
    rate = dice[1].lognormal(-9.5, 1.0, len(kind))[group] * values[REQUESTS] * 60 * (1 + 10 * (deploys.stir > 0))
    values[ERRORS] = dice[1].poisson(np.minimum(rate * dice[1].gamma(4, 0.25, rate.shape), 1e9))
    return values


def load_of(plan: Plan, t_us: Ints, kind: Ints, dice: Rng) -> Floats:
    """The load of each service against its usual one, [step, service]."""
    n, hour = len(kind), 3600 / plan.period_s
    day = t_us[:, None] / DAY_US
    local = day + dice.choice([0.0, 8 / 24, -5 / 24], n)
    swing, second = dice.uniform(0.15, 0.6, n), dice.uniform(0, 0.2, n)
    course = 1 - swing * np.cos(2 * np.pi * (local - 0.1)) + second * np.cos(4 * np.pi * (local + dice.random(n)))
    week = (local + 3) % 7  # day 0 of the era was a Thursday; the weekend comes and goes over five hours
    weekend = 1 - (np.clip((week - 4.9) / 0.2, 0, 1) * np.clip((7.1 - week) / 0.2, 0, 1)
                   + np.clip((0.1 - week) / 0.2, 0, 1)) * (1 - dice.uniform(0.5, 1.1, n))  # fmt: skip
    days = _walk(dice, plan.steps, n, np.exp(-1 / (24 * hour)), 0.06)
    short = _walk(dice, plan.steps, n, np.exp(-1 / hour), 0.03)
    shared = _walk(dice, plan.steps, 1, np.exp(-1 / (3 * hour)), 0.02)
    load = np.maximum(course, 0.05) * weekend * np.exp(days + short + shared)
    for service in range(n):
        for start in _times(dice, plan, 0.4):  # a campaign, a partner's batch, a crawler
            length = max(2, int(dice.uniform(0.25, 1.5) * hour))
            shape = dice.uniform(0.2, 0.8) * np.sin(np.pi * (np.arange(length) + 0.5) / length)
            load[start : start + length, service] *= 1 + shape[: plan.steps - start]
        for start in _times(dice, plan, 0.2):  # customers come or go, traffic is routed anew
            load[start:, service] *= dice.uniform(0.75, 1.35)
    return np.asarray(load)


def _jobs(plan: Plan, t_us: Ints, group: Ints, kind: Ints, dice: Rng) -> Floats:
    """What jobs add to cpu, [step, server]: nightly, Sunday's long one, hourly; batch servers live of them."""
    jobs = np.zeros((plan.steps, len(group)))
    per_day = 86_400 // plan.period_s
    first_day = int(t_us[0] // DAY_US)
    for service in range(len(kind)):
        members = np.flatnonzero(group == service)
        batch = KINDS[kind[service]] == "batch"
        if not batch and dice.random() > 0.35:
            continue
        begins = int(plan.steps * dice.random()) if dice.random() < 0.1 else 0  # one in ten is new
        height, length = dice.uniform(35, 75) if batch else dice.uniform(10, 40), dice.uniform(0.3, 2.5)
        for at_hour in dice.uniform(0, 24, dice.integers(2, 6) if batch else 1):
            for day in range(plan.steps // per_day + 1):
                long = 2.0 if (first_day + day + 3) % 7 == 6 else 1.0
                for server in members:
                    start = int((day + (at_hour + dice.normal(0, 0.08)) / 24) * per_day)
                    steps = max(1, int(length * long * dice.lognormal(0, 0.12) * 3600 / plan.period_s))
                    if start >= max(begins, 0):
                        jobs[start : start + steps, server] += height * dice.uniform(0.9, 1.1)
        if dice.random() < 0.4:
            every = max(1, 3600 // plan.period_s)
            jobs[int(dice.integers(every)) :: every, members] += dice.uniform(3, 12)
    return jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deploys:
    """What deploys and restarts leave: [step, server] each. `age` counts steps since the last restart."""

    cost: Floats
    slowness: Floats
    base: Floats
    stir: Floats
    age: Floats


def _deploys(plan: Plan, group: Ints, t_us: Ints, dice: Rng) -> _Deploys:
    """Deploys roll over a service in working hours; one in four leaves a shift. Single servers restart now and then."""
    n, hour = len(group), 3600 / plan.period_s
    shape = (plan.steps, n)
    cost, slowness, base, stir = np.ones(shape), np.ones(shape), np.zeros(shape), np.zeros(shape)
    restarts = np.zeros(shape, dtype=bool)
    for service in range(int(group.max()) + 1):
        members = np.flatnonzero(group == service)
        for start in _times(dice, plan, 1.2):
            shift, size = dice.integers(12), dice.uniform(0.85, 1.2)
            if not 7 <= t_us[start] % DAY_US / HOUR_US < 17:
                continue
            begins = start + np.sort(dice.uniform(0, dice.uniform(0.2, 1.0) * hour, len(members)).astype(int))
            for server, at in zip(members, np.minimum(begins, plan.steps - 1), strict=True):
                restarts[at, server] = True
                cost[at:, server] *= size if shift == 0 else 1
                slowness[at:, server] *= size if shift == 1 else 1
                base[at:, server] += 40 * (size - 1) if shift == 2 else 0
    for one in range(n):
        restarts[_times(dice, plan, 0.1), one] = True
    age = dice.uniform(0, 20 * 24 * hour, n) * np.ones(shape)
    for k in range(1, plan.steps):
        age[k] = np.where(restarts[k], 0, age[k - 1] + 1)
    young = (age < 2) & (age >= 0)
    stir[young] = dice.uniform(5, 30, int(young.sum()))
    return _Deploys(cost=cost, slowness=slowness, base=base, stir=stir, age=age)


def _memory(plan: Plan, kind: Ints, deploys: _Deploys, dice: Rng) -> Floats:
    """Grows into its bound after a restart; collectors make saw teeth on web and api; caches stand near 90 %."""
    n, hour = len(kind), 3600 / plan.period_s
    cache = kind == KINDS.index("cache")
    low = np.where(cache, dice.uniform(70, 82, n), dice.uniform(25, 62, n))
    grown, slow = np.where(cache, dice.uniform(4, 12, n), dice.uniform(2, 14, n)), dice.uniform(4, 48, n) * hour
    filled = low + grown * (1 - np.exp(-deploys.age / slow)) + deploys.base
    teeth = np.where(np.isin(kind, (0, 1)), dice.uniform(2, 9, n), 0.3)
    phase = dice.random(n) + np.cumsum(dice.gamma(4, 0.25, filled.shape) / (dice.uniform(0.5, 6, n) * hour), axis=0)
    noise = dice.normal(0, 0.25, filled.shape) + _walk(dice, plan.steps, n, np.exp(-0.5 / hour), 0.4)
    return np.asarray(np.clip(filled + teeth * (phase % 1.0) + noise, 1, 99.5))


def _disk(plan: Plan, t_us: Ints, kind: Ints, jobs: Floats, dice: Rng) -> Floats:
    """Grows slowly, logs pile up until a cleaning at a fixed hour, a job's scratch files come and go."""
    n = len(kind)
    days = (t_us - t_us[0])[:, None] / DAY_US
    start, growth = dice.uniform(15, 72, n), dice.gamma(1.5, 0.12, n)
    every, size = dice.choice([1.0, 7.0], n), dice.uniform(0.3, 6, n)
    logs = size * ((days + dice.random(n) * every) / every % 1.0)
    scratch = np.where(dice.random(n) < 0.3, dice.uniform(0, 0.05, n), 0.0) * jobs
    return np.asarray(np.clip(start + growth * days + logs + scratch + dice.normal(0, 0.03, logs.shape), 1, 97))


def lose(plan: Plan, values: Values, dice: Rng) -> None:
    """One sample in a thousand is lost with all metrics of the server; agents pause for up to an hour."""
    lost = dice.random(values.shape[1:]) < 0.001
    for server in range(values.shape[2]):
        for start in _times(dice, plan, 0.05):
            lost[start : start + int(dice.uniform(900, 3600) / plan.period_s) + 1, server] = True
    values[:, lost] = np.nan
