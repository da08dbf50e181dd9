"""Decisions of many targets over the database, and the time from a signal's step to the platform's call.

    python -m benchmarks.autoscale_worker [--targets 1000] [--turns 5] [--steps 40] [--period 2] [--database URL]

SQLite in a temporary folder (WAL, synchronous FULL, as the hub opens it), or the empty database at URL. Each target has
one signal in memory and a platform that answers at once: so this is the worker, the policy and the database. A turn
decides on every target once. Steps: one target with threads as in the hub, whose load jumps at a random moment; the
time until its platform is called depends on its `period_s`, beside which the worker's own period is 1 s.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import select

from benchmarks.report import Row, arguments, percentiles, publish
from cloud_hub.autoscale import Counts
from cloud_hub.autoscale.core.sources import InferenceSource
from cloud_hub.autoscale.core.targets import Platform, SignalEntry, TargetEntry
from cloud_hub.autoscale.core.turn import digest
from cloud_hub.autoscale.lease import HubLease
from cloud_hub.autoscale.signals import SignalContext
from cloud_hub.autoscale.targets_file import Target, TargetsInForce
from cloud_hub.autoscale.worker import PERIOD_S, Autoscaler, open_executor
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import ScaleDecision
from cloud_hub.runtime.worker import BackgroundWorker, WorkerSpec
from shared.durations import SECOND_US

START = 1_800_000_000_000_000


@dataclass
class Pool:
    """A signal."""

    value: float = 10.0
    running: int = 0

    @property
    def waiting(self) -> dict[str, Any]:
        """The value."""
        return {"all": self.value}


@dataclass
class Instant:
    """A platform that does at once as it is told."""

    name: str
    desired: int = 1
    called: threading.Event = field(default_factory=threading.Event)
    called_s: float = 0.0

    def current(self) -> Counts:
        """What was asked for."""
        return Counts(desired=self.desired, ready=self.desired)

    def scale(self, to: int, key: str, *, dry_run: bool = False) -> int:
        """Do it."""
        self.desired, self.called_s = to, time.monotonic()
        self.called.set()
        return to


def target(name: str, period_s: float, **more: Any) -> Target:
    """A target with one signal, the pool of its name."""
    signal = SignalEntry(name="load", per_instance=10.0, target=1.0, unit="requests",
                         source=InferenceSource(pool=name, of="waiting"))  # fmt: skip
    entry = TargetEntry(name=name, platform=Platform(kind="x"), signals=(signal,), period_s=period_s,
                        **({"maximum": 40, "max_step": 40, "cooldown_s": 0.0} | more))  # fmt: skip
    return Target(entry, Instant(name), digest(entry.policy))


def main() -> None:
    """Run and print."""
    asked = arguments(__doc__ or "", targets=1000, turns=5, steps=40, period=2, database="")
    with tempfile.TemporaryDirectory() as folder:
        url = asked.database or f"sqlite:///{folder}/hub.sqlite"
        kind = "PostgreSQL" if url.startswith("postgres") else "SQLite, WAL, FULL"
        db = Database(url)
        rows = _turns(kind, db, asked.targets, asked.turns, random.Random(asked.seed))
        rows += _steps(kind, db, asked.steps, float(asked.period), random.Random(asked.seed))
        db.close()
        publish("autoscale_worker", asked.seed, rows, asked.json)


def _turns(kind: str, db: Database, count: int, turns: int, rng: random.Random) -> list[Row]:
    """Turns in which every target holds, and turns in which every target takes a step."""
    names, clock = [f"t{number}" for number in range(count)], [START]
    pools, in_force = {name: Pool() for name in names}, TargetsInForce("")
    in_force.targets = {name: target(name, 15.0, actions_per_hour=1000) for name in names}
    lease = HubLease(db, lambda: clock[0] / 1e6, lambda: clock[0], alone=True)
    with open_executor() as executor:
        hub = Autoscaler(db, in_force, lease, SignalContext(db, pools), clock=lambda: clock[0], executor=executor)
        hub.run_once()
        held, stepped = list[float](), list[float]()
        for turn in range(2 * turns):
            clock[0] += 15 * SECOND_US
            for name, pool in pools.items():
                pool.value = 10.0 * (in_force.targets[name].scaler.current().desired + turn % 2 * rng.randint(1, 3))
            (stepped if turn % 2 else held).append(_timed(hub))
    size = _bytes(db)
    data = f"{count} targets"
    return [
        Row(data, kind, "turn in which all hold", statistics.median(held), "s"),
        Row(data, kind, "a decision that holds", 1000 * statistics.median(held) / count, "ms"),
        Row(data, kind, "turn in which all step", statistics.median(stepped), "s"),
        Row(data, kind, "a step with its call", 1000 * statistics.median(stepped) / count, "ms"),
        Row(data, kind, "texts of a decision", size, "bytes"),
    ]


def _timed(hub: Autoscaler) -> float:
    """Processor time of this process would leave out the disk: wall time."""
    began = time.perf_counter()
    hub.run_once()
    return time.perf_counter() - began


def _bytes(db: Database) -> float:
    with db.read() as session:
        rows = session.exec(select(ScaleDecision).limit(1000)).all()
    return statistics.mean(len(row.state) + len(row.observation) + len(row.decision) + len(row.control) for row in rows)


def _steps(kind: str, db: Database, count: int, period_s: float, rng: random.Random) -> list[Row]:
    """The time from a jump of the load to the call of the platform, by a worker that runs as in the hub."""
    names, in_force = [f"step{number}" for number in range(count)], TargetsInForce("")
    pools = {name: Pool() for name in names}
    in_force.targets = {name: target(name, period_s) for name in names}
    with open_executor() as executor:
        hub = Autoscaler(db, in_force, HubLease(db), SignalContext(db, pools), executor=executor)
        spec = WorkerSpec(name="autoscale", run_once=hub.run_once, period_s=PERIOD_S)
        worker = BackgroundWorker(spec, lambda _: None)
        worker.start()
        took = [_step(pools[name], in_force.targets[name].scaler, rng, period_s) for name in names]
        worker.stop()
    median, _ = percentiles(took)
    data = f"{count} steps, period_s {period_s:g}"
    return [Row(data, kind, "step to call, median", median, "s"), Row(data, kind, "longest", max(took), "s")]


def _step(pool: Pool, platform: Any, rng: random.Random, period_s: float) -> float:
    time.sleep(rng.uniform(1.0, 2.0) * period_s)
    pool.value = 40.0
    began = time.monotonic()
    if not platform.called.wait(60):
        raise RuntimeError("the platform was never called")
    return float(platform.called_s - began)


if __name__ == "__main__":
    main()
