"""Stored history of simulated devices: a daily course with noise, straight into the database."""

from __future__ import annotations

from typing import Any

import numpy as np
from simulators.births import born

from cloud_hub.database.sessions import Database
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.telemetry import samples
from shared.durations import DAY_US
from shared.messages import Birth, Metric


def devices(db: Database, names: list[str], *metrics: str) -> None:
    """Born devices with these gauges."""
    with db.write() as session:
        for name in names:
            told = [Metric(name=metric) for metric in metrics]
            born(session, Birth(device=name, session="s", epoch="e", metrics=told), 1)


def course(days: float, period_s: float, seed: int, end_us: int) -> tuple[Any, Any]:
    """(t_us, values) up to `end_us`: 50 with a daily swing of 20 and noise of 2."""
    count = int(days * 86_400 / period_s)
    times = end_us - (np.arange(count, 0, -1) * int(period_s * 1e6))
    noise = np.random.default_rng(seed).normal(0, 2, count)
    return times, 50 + 20 * np.sin(times % DAY_US / DAY_US * 2 * np.pi) + noise


def store(db: Database, device: str, metric: str, times: Any, values: Any) -> None:
    """Samples as ingest would have written them."""
    with db.write() as session:
        marks = StreamOffsets(session)
        source = marks.get((device, "e", "telemetry")).source
        numbered = zip(times.tolist(), values.tolist(), strict=True)
        seq = int(times[0]) % 1_000_000_007
        rows = [(device, metric, t, source, seq + n, v, None, "good") for n, (t, v) in enumerate(numbered)]
        samples.store_samples(session, rows)
