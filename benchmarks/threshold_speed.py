"""What thresholds cost: microseconds a sample over many series at once, bytes a series, and judging on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import Row
from benchmarks.series import Floats, Ints
from cloud_hub.thresholds.bands.model import Bands
from cloud_hub.thresholds.scores import model as scores
from cloud_hub.thresholds.scores import state as score_columns
from shared.thresholds import JudgeState, Limits, judge

PERIOD_US = 300_000_000
BEGAN_US = 1_795_132_800_000_000
Step = Callable[[Ints, Floats], Any]


class EwmaColumns:
    """The least band there is: mean and variance of n series in float32 columns."""

    def __init__(self, n: int, weight: float = 0.02) -> None:
        self.weight = np.float32(weight)
        self.mean, self.variance = np.zeros(n, np.float32), np.zeros(n, np.float32)

    def step(self, t_us: Ints, values: Floats) -> tuple[Floats, Floats]:
        """Low and high before these values, which are then learned from."""
        reach: Floats = np.float32(2.5758) * np.sqrt(self.variance)
        low, high = self.mean - reach, self.mean + reach
        off = np.nan_to_num(values.astype(np.float32) - self.mean)
        self.mean += self.weight * off
        self.variance = (1 - self.weight) * (self.variance + self.weight * off * off)
        return low, high

    def pack(self) -> bytes:
        """The state."""
        return self.mean.tobytes() + self.variance.tobytes()


def models(n: int) -> dict[str, Any]:
    """What has `step` and `pack`; the EWMA band first."""
    return {
        "EWMA band": EwmaColumns(n),
        "Tidegate band": Bands(n),
        "Tidegate score": scores.ScoreModel(n),
        "Tidegate score without numba": scores.ScoreModel(n, fast=False),
    }


def rows(n: int, seed: int, steps: int = 60, warm: int = 20) -> list[Row]:
    """The cost of each model over `n` series, of `steps` samples each after `warm`, and of the device's judge."""
    dataset, found, base = f"{n} series", [], 0.0
    for name, model in models(n).items():
        cost = _cost(model.step, n, seed, steps, warm)
        base = base or cost
        found.append(Row(dataset, name, "a sample", cost, "us"))
        found.append(Row(dataset, name, "against the EWMA band", cost / base, "times"))
        found.append(Row(dataset, name, "state", len(model.pack()) / n, "bytes a series"))
    found.append(
        Row(dataset, "bare limit of the score: its bytes read and written back", "a sample", _bytes(n, steps), "us")
    )
    return [*found, *_device(seed)]


def _bytes(n: int, steps: int) -> float:
    """Median microseconds a series of what no step can be without: all that it reads and writes, once through NumPy."""
    one, taken = score_columns.fresh(1), []
    hours = 2 * (one.hours.itemsize + one.rests.itemsize)  # the usual values of two hours of all
    touched = one.times.nbytes + one.wide.nbytes + one.slim.nbytes + one.tails.nbytes + hours
    rows = np.ones(n * touched // 4, dtype=np.float32)
    for _ in range(steps):
        began = time.perf_counter()
        np.negative(rows, out=rows)
        taken.append((time.perf_counter() - began) / n * 1e6)
    return median(taken)


def _cost(step: Step, n: int, seed: int, steps: int, warm: int) -> float:
    """Median microseconds a sample; a daily wave with noise, one sample in a hundred missing."""
    dice, taken = np.random.default_rng(seed), []
    for k in range(warm + steps):
        t_us = np.full(n, BEGAN_US + k * PERIOD_US, dtype=np.int64)
        values = 50 + 20 * np.sin(2 * np.pi * k / 288) + dice.normal(size=n)
        values[dice.random(n) < 0.01] = np.nan
        began = time.perf_counter()
        step(t_us, values)
        taken.append((time.perf_counter() - began) / n * 1e6)
    return median(taken[warm:])


def _device(seed: int, metrics: int = 100, seconds: int = 600) -> list[Row]:
    """100 metrics at one sample a second, limits for each hour, through the judge of the device."""
    dice = np.random.default_rng(seed)
    values = dice.normal(50, 10, size=(seconds, metrics)).tolist()
    limits = [Limits(metric=f"m{n}", lows=(20.0,) * 24, highs=(80.0,) * 24, deadband=1.0) for n in range(metrics)]
    states, taken = [JudgeState()] * metrics, []
    for second, row in enumerate(values):
        t_us, began = BEGAN_US + second * 1_000_000, time.perf_counter()
        for n in range(metrics):
            states[n], _ = judge(limits[n], states[n], t_us, row[n])
        taken.append((time.perf_counter() - began) / metrics * 1e6)
    cost = median(taken)
    name = "judge, 100 metrics at 1 s"
    return [
        Row("device", name, "a sample", cost, "us"),
        Row("device", name, "share of a core", cost * metrics / 1e4, "%"),
    ]
