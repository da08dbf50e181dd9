"""Simulates faults of servers from a seed, with their start and end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks import unlisted_faults
from benchmarks.series import Ints
from benchmarks.server_shapes import CPU, DISK, ERRORS, LATENCY, MEMORY, REQUESTS, Plan, Rng, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault of a kind on some servers, from step `start` to step `end`, both included."""

    kind: str
    servers: tuple[int, ...]
    start: int
    end: int


def _leak(part: Values, dice: Rng) -> None:
    """A process' memory grows until somebody restarts it."""
    part[MEMORY] = np.minimum(part[MEMORY] + _ramp(part) * dice.uniform(25, 50), 99)


def _stuck(part: Values, dice: Rng) -> None:
    """A sensor repeats its last value."""
    metric = dice.choice([CPU, REQUESTS, LATENCY])
    part[metric] = part[metric][:1]


def _storm(part: Values, dice: Rng) -> None:
    """Three samples in ten jump: cpu or latency."""
    hit = dice.random(part.shape[1:]) < 0.3
    if dice.random() < 0.5:
        part[CPU] = np.minimum(part[CPU] + hit * dice.uniform(30, 60, hit.shape), 100)
    else:
        part[LATENCY] *= 1 + hit * dice.uniform(1, 4, hit.shape)


def _drift(part: Values, dice: Rng) -> None:
    """A disk wears out, a table loses its index: latency creeps up to two or three times."""
    part[LATENCY] *= 1 + _ramp(part) * dice.uniform(1, 2)


def _step(part: Values, dice: Rng) -> None:
    """Latency is suddenly higher and stays there."""
    part[LATENCY] *= dice.uniform(1.8, 3)


def _lost(part: Values, dice: Rng) -> None:
    """The balancer sends nothing more here."""
    left = dice.uniform(0, 0.1)
    part[REQUESTS] *= left
    part[ERRORS] = np.floor(part[ERRORS] * left)
    part[CPU] = 3 + (part[CPU] - 3) * 0.2


def _filling(part: Values, dice: Rng) -> None:
    """A log runs wild: the disk is full when the time is over."""
    part[DISK] += _ramp(part) * (99 - part[DISK])


def _outage(part: Values, dice: Rng) -> None:
    """A service fails on all its servers: little traffic, many errors, slow answers."""
    failing = part[REQUESTS] * 60 * dice.uniform(0.02, 0.2)
    part[REQUESTS] *= dice.uniform(0.05, 0.4)
    part[ERRORS] += np.ceil(failing)
    part[LATENCY] *= dice.uniform(2, 5)


def _ramp(part: Values) -> Values:
    """0 to 1 over the fault's time, [step, 1]."""
    return np.linspace(0, 1, part.shape[1], dtype=np.float32)[:, None]


STRIKES: dict[str, tuple[tuple[float, float], Callable[[Values, Rng], None]]] = {
    "memory leak": ((12, 48), _leak),
    "stuck sensor": ((6, 24), _stuck),
    "spike storm": ((2, 8), _storm),
    "slow drift": ((24, 72), _drift),
    "latency step": ((2, 12), _step),
    "lost traffic": ((1, 6), _lost),
    "disk filling": ((6, 24), _filling),
    "group outage": ((0.5, 2), _outage),
}
"""Each kind with the hours it lasts, from least to most."""


def strike(plan: Plan, values: Values, group: Ints, dice: Rng) -> Iterator[Fault]:
    """`plan.each` faults of every kind at random times after learning, each changes `values[metric, step, server]`.

    A day lies between two faults of one service. Every second latency step and every outage strikes a whole service.
    """
    hour = 3600 / plan.period_s
    first, taken = round(plan.learn_days * 24 * hour), list[tuple[int, int, int]]()
    kinds = STRIKES | (unlisted_faults.STRIKES if plan.unlisted else {})
    for turn in range(plan.each):
        for kind, (lasts, change) in kinds.items():
            length = max(3, round(dice.uniform(*lasts) * hour))
            server, start = _place(kind, values, group, length, first, taken, dice, 24 * hour)
            whole = kind == "group outage" or (kind == "latency step" and turn % 2 == 1)
            servers = np.flatnonzero(group == group[server]) if whole else np.array([server])
            part = values[:, start : start + length, servers]
            change(part, dice)
            values[:, start : start + length, servers] = part
            taken.append((int(group[server]), start, start + length))
            yield Fault(kind=kind, servers=tuple(servers.tolist()), start=start, end=start + length - 1)


def _place(
    kind: str, values: Values, group: Ints, length: int, first: int, taken: list[tuple[int, int, int]], dice: Rng,
    apart: float,
) -> tuple[int, int]:  # fmt: skip
    """A server and a step where such a fault has room; ValueError where a small fleet has none."""
    for _ in range(10_000):
        server = int(dice.integers(len(group)))
        start = int(dice.integers(first, max(first + 1, values.shape[1] - length)))
        near = any(g == group[server] and begins - apart < start + length and start < ends + apart
                   for g, begins, ends in taken)  # fmt: skip
        room = {"memory leak": MEMORY, "leak and restart": MEMORY, "disk filling": DISK}.get(kind)
        full = room is not None and values[room, start, server] > 70
        if not near and not full and start + length <= values.shape[1]:
            return server, start
    raise ValueError(f"no room for '{kind}': more servers or weeks, or fewer faults of each kind")
