"""Durable actions a second, from a run's proposal to its first step, and what kills of the hub lose or double.

    python -m benchmarks.playbooks [--runs 100] [--kills 100] [--hubs 1] [--database URL] [--json FILE]

SQLite in a temporary folder (WAL, synchronous FULL, as the hub opens it), or the empty database at URL. Each run is a
diamond of four actions, each of which is a row of the hub and an effect in a file of its own, deduplicated by key as a
device does. What carries actions out is simulated, all that wait in one transaction: this is the engine alone. Needs
`tests/` beside it.

Kills are SIGKILL of a hub's process just before or after a commit or an effect, at random. With none lost or doubled in
n kills, the rate is below 3 / n with 95 % confidence.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Row, arguments, percentiles, publish
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.playbooks import journal, service
from cloud_hub.playbooks.engine import Engine
from cloud_hub.runtime.worker import BackgroundWorker, WorkerSpec

STEPS = """
a: {action: note}
b1: {action: note, needs: [a]}
b2: {action: note, needs: [a]}
c: {action: note, needs: [b1, b2]}
"""
LATENCIES = 100


def main() -> None:
    """Run and print."""
    asked = arguments(__doc__ or "", runs=100, kills=100, hubs=1, database="")
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    with tempfile.TemporaryDirectory() as folder:
        url = asked.database or f"sqlite:///{folder}/hub.sqlite"
        kind = "PostgreSQL" if url.startswith("postgres") else "SQLite, WAL, FULL"
        rows = _killed(kind, url, Path(folder), asked) if asked.kills else []
        rows += _measured(kind, url, Path(folder), asked.runs) if asked.runs else []
        publish("playbooks", asked.seed, rows, asked.json)


def _measured(kind: str, url: str, folder: Path, runs: int) -> list[Row]:
    runner = importlib.import_module("simulators.step_runner")
    world = importlib.import_module("simulators.playbook_world")
    db, plan = Database(url), world.plan_of(STEPS)
    runner.install(db)
    effects, engine = runner.World(folder / "speed.sqlite"), Engine(db, runner.SimulatedRunner())
    took, processor = _throughput(db, engine, effects, plan, runs)
    actions = len(effects.effects())
    waits = _latencies(db, engine, plan)
    effects.close()
    db.close()
    median, worst = percentiles(waits)
    return [
        Row(kind, "rows of the hub", "actions", actions / took, "1/s"),
        Row(kind, "rows of the hub", "processor time of an action", processor / actions * 1e3, "ms"),
        Row(kind, "rows of the hub", "runs", runs / took, "1/s"),
        Row(kind, "rows of the hub", "enqueue to start, median", median, "ms"),
        Row(kind, "rows of the hub", "enqueue to start, p99", worst, "ms"),
    ]


def _throughput(db: Database, engine: Engine, effects: Any, plan: Any, runs: int) -> tuple[float, float]:
    """Seconds by the wall clock and of the processor, from the proposals to the end of the last run."""
    began, processor = time.perf_counter(), time.process_time()
    for _ in range(runs):
        with db.write() as session:
            service.propose(session, plan, (), now_us(), actor="benchmark")
    while engine.run_once().again or effects.work_together(db):
        pass
    return time.perf_counter() - began, time.process_time() - processor


def _latencies(db: Database, engine: Engine, plan: Any) -> list[float]:
    """Milliseconds from the proposal of a run to the entry of its first step, one run at a time."""
    worker = BackgroundWorker(WorkerSpec(name="playbooks", run_once=engine.run_once), lambda _result: None)
    worker.start()
    numbers, began = [], []
    for _ in range(LATENCIES):
        began.append(now_us())
        with db.write() as session:
            numbers.append(service.propose(session, plan, (), now_us(), actor="benchmark").id)
        worker.notify()
        time.sleep(0.05)
    time.sleep(1)
    worker.stop()
    with db.read() as session:
        entries = [[entry for entry in journal.entries(session, number) if entry.kind == "step.started"]
                   for number in numbers]  # fmt: skip
    return [(found[0].t_us - start) / 1e3 for found, start in zip(entries, began, strict=True)]


def _killed(kind: str, url: str, folder: Path, asked: Any) -> list[Row]:
    kills = importlib.import_module("simulators.playbook_kills")
    report = kills.campaign(url, folder, asked.kills, asked.hubs, asked.seed)
    method = f"{asked.hubs} hub(s), SIGKILL"
    return [
        Row(kind, method, "kills", report.kills, ""),
        Row(kind, method, "runs", report.runs, ""),
        Row(kind, method, "effects", report.effects, ""),
        Row(kind, method, "effects lost", report.lost, ""),
        Row(kind, method, "effects doubled", report.doubled, ""),
        Row(kind, method, "asked for again (same key)", report.repeated, ""),
        Row(kind, method, "runs unfinished", report.unfinished, ""),
        Row(kind, method, "journals that diverge", report.diverged, ""),
        Row(kind, method, "bound, lost or doubled", 300 / max(report.kills, 1), "% of kills"),
    ]


if __name__ == "__main__":
    main()
