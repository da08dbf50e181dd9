"""Worlds for the autoscaling benchmark: real files, and synthetic days and weeks by seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.series import read as read_series
from cloud_hub.autoscale import traces
from cloud_hub.autoscale.core.simulate import Floats, World
from shared.durations import SECOND_US


def read(file: Path, series: str = "", boot_s: float | None = None) -> World:
    """The world of a CSV, or of one series of a Parquet file; raises ValueError."""
    if file.suffix != ".parquet":
        return traces.read(file, boot_s)
    found = [one for one in read_series(file) if one.name == series]
    if not found:
        raise ValueError(f"{file} has no series '{series}'")
    return traces.world(found[0].t_us / SECOND_US, found[0].values, boot_s or traces.BOOT_S)


KINDS = ("daily", "weekly", "noisy", "spikes", "walk", "steps")


def synthetic(kind: str, seed: int, days: int = 14) -> World:
    """A synthetic world of 5-minute sums with a daily shape, by `kind`; the same seed gives the same world."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    n = days * 288
    hours = np.arange(n) / 12.0
    phase, second = rng.uniform(0, 24, 2)
    shape = 1 + rng.uniform(0.3, 0.8) * np.sin((hours - phase) * np.pi / 12)
    shape = shape + rng.uniform(0, 0.3) * np.sin((hours - second) * np.pi / 6)
    shape = np.maximum(shape, 0.05)
    drift = _smooth_noise(rng, n, 0.999, rng.uniform(0.05, 0.2))
    fast = _smooth_noise(rng, n, rng.uniform(0.5, 0.95), rng.uniform(0.05, 0.2))
    if kind == "weekly":
        shape = shape * np.where((hours // 24 + rng.integers(7)) % 7 >= 5, rng.uniform(0.3, 0.6), 1.0)
    if kind == "noisy":
        fast = rng.gamma(1.2, 1.0, n) / 1.2 - 1
    if kind == "spikes":
        shape = shape + 0.0
        for start in rng.integers(0, n, days * 2):
            shape[start : start + rng.integers(2, 12)] += rng.uniform(0.5, 2.5)
        daily = int(rng.integers(288))
        shape[(np.arange(n) % 288 - daily) % 288 < rng.integers(3, 9)] += rng.uniform(0.8, 2.0)
    if kind == "walk":
        shape, drift = np.ones(n), _smooth_noise(rng, n, 0.997, 0.6)
    if kind == "steps":
        edges = np.sort(rng.integers(0, 288, 6))
        shape = np.repeat(rng.uniform(0.2, 2.0, 7), np.diff(edges, prepend=0, append=288))
        shape = np.tile(shape, days)
    values = shape * np.exp(drift) * np.maximum(1 + fast, 0.02)
    sums = rng.poisson(values * rng.uniform(40, 400))
    start = 1_700_000_000 // 86_400 * 86_400.0
    return traces.world(start + hours * 3600, sums.astype(np.float64), traces.BOOT_S)


def _smooth_noise(rng: np.random.Generator, n: int, keep: float, size: float) -> Floats:
    """An AR(1) process of standard deviation `size`."""
    steps = rng.normal(0, size * np.sqrt(1 - keep**2), n)
    found, value = np.empty(n), rng.normal(0, size)
    for index, step in enumerate(steps):
        value = keep * value + step
        found[index] = value
    return found
