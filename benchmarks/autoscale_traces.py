"""Traces for the autoscaling benchmark, as worlds: real files, and synthetic days and weeks by seed.

A file is CSV with the columns `timestamp,value` (sums or means of equal times) or `TIMESTAMP,ContextTokens,
GeneratedTokens` (one row a request: the load is its tokens), or Parquet with several `series`. The rate is interpolated
per minute. One instance carries the 99.9th percentile of the rate / 12. The first three days, or a quarter of a shorter
trace, are not scored.
"""

from __future__ import annotations

import csv
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from cloud_hub.autoscale.core.simulate import Floats, World
from shared.durations import SECOND_US

PEAK_INSTANCES = 12
UNSCORED_DAYS = 3.0
BOOT_S, LLM_BOOT_S = 300.0, 120.0
MINUTE_S, DAY_S = 60.0, 86_400.0


def read(file: Path, series: str = "", boot_s: float | None = None) -> World:
    """The world of a file; raises ValueError if it is no trace."""
    if file.suffix == ".parquet":
        from benchmarks.series import read as read_series  # noqa: PLC0415

        found = [one for one in read_series(file) if one.name == series]
        if not found:
            raise ValueError(f"{file} has no series '{series}'")
        return world(found[0].t_us / SECOND_US, found[0].values, boot_s or BOOT_S)
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text)
        columns = rows.fieldnames or []
        if {"timestamp", "value"} <= set(columns):
            seconds, values = _columns(rows, "timestamp", ("value",))
            return world(seconds, values, boot_s or BOOT_S)
        if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= set(columns):
            seconds, values = _columns(rows, "TIMESTAMP", ("ContextTokens", "GeneratedTokens"))
            return world(*_per_minute(seconds, values), boot_s or LLM_BOOT_S)
    raise ValueError(
        f"{file}: the columns are {columns}, not timestamp,value or TIMESTAMP,ContextTokens,GeneratedTokens"
    )


def _columns(rows: csv.DictReader[str], time: str, names: tuple[str, ...]) -> tuple[Floats, Floats]:
    seconds, values = [], []
    for row in rows:
        text = row[time][:26]  # Python reads microseconds, not finer
        seconds.append(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp())
        values.append(sum(float(row[name]) for name in names))
    return np.array(seconds), np.array(values)


def _per_minute(seconds: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Sums of each minute; the last one is not whole and is left out."""
    minutes = (seconds // MINUTE_S).astype(np.int64)
    sums: Floats = np.bincount(minutes - minutes[0], weights=values)[:-1].astype(np.float64)
    times: Floats = (minutes[0] + np.arange(sums.size)) * MINUTE_S
    return times, sums


def world(seconds: Floats, values: Floats, boot_s: float) -> World:
    """The world of sums at `seconds` (UTC), in any order; of a time that stands twice the first counts."""
    known = np.isfinite(values)
    seconds, first = np.unique(seconds[known], return_index=True)
    values = np.maximum(values[known][first], 0.0)
    if seconds.size < 10 or not values.max() > 0:
        raise ValueError("a trace needs ten points, and one above 0")
    period = float(np.median(np.diff(seconds)))
    minutes = np.arange(seconds[0], seconds[-1] + 1, MINUTE_S)
    return scaled(np.interp(minutes, seconds, values) / period, int(seconds[0]) * SECOND_US, boot_s)


def scaled(rate: Floats, start_us: int, boot_s: float) -> World:
    """A world whose peak needs PEAK_INSTANCES."""
    peak = float(np.sort(rate)[int(rate.size * 0.999)])
    unscored = int(min(UNSCORED_DAYS * DAY_S, rate.size * MINUTE_S / 4) / MINUTE_S)
    return World(rate=rate, per_instance=peak / PEAK_INSTANCES, start_us=start_us, boot_s=boot_s, unscored=unscored)


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
    return world(1_700_000_000.0 // 86400 * 86400 + hours * 3600, sums.astype(np.float64), BOOT_S)


def _smooth_noise(rng: np.random.Generator, n: int, keep: float, size: float) -> Floats:
    """An AR(1) process of standard deviation `size`."""
    steps = rng.normal(0, size * np.sqrt(1 - keep**2), n)
    found, value = np.empty(n), rng.normal(0, size)
    for index, step in enumerate(steps):
        value = keep * value + step
        found[index] = value
    return found
