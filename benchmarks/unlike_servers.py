"""Makes the servers of one service unlike each other: own load, daily seasonality, scales and cron jobs.

Written for `benchmarks.servers` after the detectors, and before any of them was run on it; see `Plan.unlike`.
"""

from __future__ import annotations

import numpy as np

from benchmarks.series import Floats
from benchmarks.server_shapes import CPU, LATENCY, Plan, Rng, Values


def loads(plan: Plan, load: Floats, dice: Rng) -> Floats:
    """The load of each server, [step, server]: its service's, up to three hours apart, flatter or steeper, scaled."""
    n, most = load.shape[1], 3 * 3600 // plan.period_s
    shifts = np.asarray(dice.integers(-most, most + 1, n), dtype=np.int64)
    powers, scales = dice.uniform(0.4, 1.6, n), dice.lognormal(0, 0.6, n)
    moved = np.stack([np.roll(load[:, k], shifts[k]) for k in range(n)], axis=1)
    return np.asarray(np.maximum(moved, 0.0) ** powers * scales)


def scale(plan: Plan, values: Values, dice: Rng) -> None:
    """Other hardware and other cron jobs on each server, in place: cpu and latency."""
    steps, n = values.shape[1:]
    latency, processor = dice.lognormal(0, np.array([[0.5], [0.35]]), (2, n)).astype(np.float32)
    values[LATENCY] *= latency
    cpu = values[CPU] * processor
    per_day = 86_400 // plan.period_s
    for server in range(n):
        for _ in range(int(dice.integers(0, 4))):
            start, length = int(dice.integers(per_day)), int(dice.integers(2, max(3, per_day // 12)))
            every = int(dice.choice([per_day, per_day, per_day // 4, 7 * per_day]))
            for begin in range(start % every, steps, every):
                at = begin + int(dice.integers(-2, 3))
                cpu[max(at, 0) : max(at + length, 0), server] += dice.uniform(0.8, 1.2) * 20
    values[CPU] = np.clip(cpu, 0.2, 100)
