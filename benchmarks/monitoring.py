"""Measures the cost of live monitoring: a round over all monitored series, and catching up with stored history.

    python -m benchmarks.monitoring [--devices 1000] [--metrics 10] [--history 60] [--rounds 5] [--json FILE]

A learning job with `monitor` over `devices` x `metrics` series of a sample a minute, SQLite with FULL commits, through
the hub's own worker. Catching up: the first rounds, which learn from `history` stored samples of each series. A
round: each series has a new sample, and every group is read, judged and written. Baselines, in the same run: the
model alone on the same samples in memory, and one bare SELECT of them. CPU time, median of `rounds`. Limits: warm
caches, no other queries, no alarms.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.report import Row, arguments, publish
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import LearnedSeries, LearningJob
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import service as incidents
from cloud_hub.telemetry import samples
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.monitoring.anomalies import AnomalyMonitor
from cloud_hub.thresholds.scores.model import ScoreModel
from shared.codec import plain
from shared.durations import MINUTE_US

BEGAN_US = 1_795_132_800_000_000


class Fleet:
    """Monitored series, and their samples as stored by ingest."""

    def __init__(self, db: Database, devices: int, metrics: int, seed: int) -> None:
        self.db, self.dice, self.at_us = db, np.random.default_rng(seed), BEGAN_US
        self.devices = [f"server-{n}" for n in range(devices)]
        self.metrics = [f"metric.{n}" for n in range(metrics)]
        policy = plain(LimitPolicy(metrics=("metric.*",), monitor=True))
        with db.write() as session:
            session.add(LearningJob(id="all", target="*", policy=policy, actor="", created_us=0, due_us=1 << 61))
            session.add_all(
                LearnedSeries(learning="all", device=device, metric=metric)
                for device in self.devices
                for metric in self.metrics
            )

    def live(self, minutes: int) -> None:
        """So many samples more of each series."""
        for device in self.devices:
            values = self.dice.normal(50, 2, (minutes, len(self.metrics)))
            with self.db.write() as session:
                source, first = (
                    StreamOffsets(session).get((device, "e", "telemetry")).source,
                    (self.at_us - BEGAN_US) // MINUTE_US,
                )
                samples.store_samples(session, [
                    (device, metric, self.at_us + n * MINUTE_US, source, (first + n) * 1000 + m, value, None, "good")
                    for n, row in enumerate(values.tolist())
                    for m, (metric, value) in enumerate(zip(self.metrics, row, strict=True))
                ])  # fmt: skip
        self.at_us += minutes * MINUTE_US

    def read(self) -> int:
        """One bare SELECT of the last minute's samples."""
        with self.db.read() as session:
            query = "SELECT device, metric, t_us, value FROM telemetry WHERE t_us >= ?"
            return len(session.connection().exec_driver_sql(query, (self.at_us - MINUTE_US,)).all())


def round_cpu_s(watcher: AnomalyMonitor, now_us: int) -> float:
    """CPU seconds of a complete round."""
    began = time.process_time()
    while watcher.run_once(now_us).again:
        pass
    return time.process_time() - began


def bare(count: int, rounds: int, seed: int) -> float:
    """Processor seconds of the model alone, for a sample of each."""
    scores, dice, found = ScoreModel(count), np.random.default_rng(seed), []
    for n in range(rounds + 1):
        t_us = np.full(count, BEGAN_US + n * MINUTE_US)
        values = dice.normal(50, 2, count)
        began = time.process_time()
        scores.step(t_us, values)
        found.append(time.process_time() - began)
    return median(found[1:])


def rows(devices: int, metrics: int, history: int, rounds: int, seed: int) -> list[Row]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{Path(folder) / 'hub.sqlite'}")
        fleet, count = Fleet(db, devices, metrics, seed), devices * metrics
        fleet.live(history)
        watcher = AnomalyMonitor(db, incidents.handle_alarm)
        caught = round_cpu_s(watcher, fleet.at_us)
        each, reads = [], []
        for _ in range(rounds):
            fleet.live(1)
            each.append(round_cpu_s(watcher, fleet.at_us))
            began = time.process_time()
            fleet.read()
            reads.append(time.process_time() - began)
        db.close()
    name = f"{count} series"
    return [
        Row(name, "catching up", "processor a sample", caught / (count * history) * 1e6, "us"),
        Row(name, "a round, a sample of each", "processor", median(each), "s"),
        Row(name, "a round, a sample of each", "processor a series", median(each) / count * 1e6, "us"),
        Row(name, "the model alone, in memory", "processor a series", bare(count, rounds, seed) / count * 1e6, "us"),
        Row(name, "a bare SELECT of the samples", "processor a series", median(reads) / count * 1e6, "us"),
    ]


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", devices=1000, metrics=10, history=60, rounds=5)
    found = rows(options.devices, options.metrics, options.history, options.rounds, options.seed)
    publish("monitoring", options.seed, found, options.json)


if __name__ == "__main__":
    main()
