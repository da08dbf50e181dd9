"""Simulates, from a seed, kinds of faults that no detector here was designed for; see `Plan.unlisted`.

Written after the detectors and before any of them was run on these kinds. Each changes values[metric, step, server]
from its start to its end, as those of `benchmarks.server_faults` do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.server_shapes import CPU, ERRORS, LATENCY, MEMORY, REQUESTS, Rng, Values


def _leak_and_restart(part: Values, dice: Rng) -> None:
    """Memory grows for hours until the process is killed and starts anew, again and again."""
    steps = part.shape[1]
    period = max(4, int(dice.uniform(36, 96)))
    tooth = (np.arange(steps) % period / period).astype(np.float32)[:, None]
    part[MEMORY] += tooth * np.maximum(96 - part[MEMORY], 0)
    part[CPU] = np.minimum(part[CPU] + (tooth < 2 / period) * dice.uniform(15, 40), 100)


def _shifted_day(part: Values, dice: Rng) -> None:
    """The daily course comes hours late: a wrong time zone, users of another region."""
    shift = int(dice.uniform(48, 96))
    for metric in (CPU, REQUESTS, LATENCY, ERRORS):
        part[metric] = np.roll(part[metric], min(shift, part.shape[1] // 2), axis=0)


def _half_lost(part: Values, dice: Rng) -> None:
    """Half of the requests no longer arrive, without any other symptom."""
    left = dice.uniform(0.4, 0.6)
    part[REQUESTS] *= left
    part[ERRORS] = np.floor(part[ERRORS] * left)
    part[CPU] *= dice.uniform(0.6, 0.8)


def _stale(part: Values, dice: Rng) -> None:
    """Values are read anew once an hour only, and repeated between."""
    metric = dice.choice([CPU, MEMORY, LATENCY])
    part[metric] = part[metric][np.arange(part.shape[1]) // 12 * 12]


def _swapped(part: Values, dice: Rng) -> None:
    """A new version reports cpu as memory and memory as cpu."""
    part[[CPU, MEMORY]] = part[[MEMORY, CPU]]


def _cpu_and_latency(part: Values, dice: Rng) -> None:
    """A neighbour takes the processor: cpu and latency step together, each by little."""
    part[CPU] = np.minimum(part[CPU] + dice.uniform(12, 25), 100)
    part[LATENCY] *= dice.uniform(1.25, 1.6)


def _retries(part: Values, dice: Rng) -> None:
    """Clients retry: two to three times the requests, with the cpu that they cost."""
    times = dice.uniform(2, 3)
    part[REQUESTS] *= times
    part[CPU] = np.minimum(part[CPU] * (1 + (times - 1) * 0.6), 100)


def _uneasy(part: Values, dice: Rng) -> None:
    """The mean stays and the spread is several times as wide: a scheduler that thrashes."""
    metric = dice.choice([CPU, LATENCY])
    middle = np.nanmedian(part[metric], axis=0, keepdims=True)
    wide = dice.lognormal(0, 0.35, part.shape[1:]).astype(np.float32)
    part[metric] = np.clip(part[metric] * wide, 0.2, 100 if metric == CPU else np.nanmax(middle) * 1e3)


STRIKES: dict[str, tuple[tuple[float, float], Callable[[Values, Rng], None]]] = {
    "leak and restart": ((12, 48), _leak_and_restart),
    "shifted day": ((24, 72), _shifted_day),
    "half the requests lost": ((2, 12), _half_lost),
    "stale reading": ((6, 24), _stale),
    "swapped metrics": ((6, 24), _swapped),
    "cpu and latency step": ((2, 12), _cpu_and_latency),
    "retry storm": ((1, 6), _retries),
    "wider spread": ((4, 16), _uneasy),
}
"""Each kind with the hours it lasts, from least to most."""
