"""The same graph of four steps as `benchmarks.playbooks`, on DBOS: for comparison (ADR 0023).

    pip install dbos==3.4.0
    python -m benchmarks.playbooks_dbos [--runs 100] [--database URL] [--synchronous FULL] [--json FILE]

SQLite in WAL mode, in a temporary folder, or the PostgreSQL database at URL. Each step is one effect in a file of its
own, as in the other benchmark. Serialised as JSON, polled every 50 ms. DBOS is no dependency of Tidegate.
"""

from __future__ import annotations

import importlib
import resource
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event

from benchmarks.report import Row, arguments, percentiles, publish

STEPS = ("a", "b1", "b2", "c")


def engine_of(url: str, synchronous: str) -> Any:
    """SQLite as the hub opens it, or PostgreSQL."""
    engine = create_engine(url, pool_size=20) if url.startswith("postgresql") else create_engine(url)
    if not url.startswith("postgresql"):

        @event.listens_for(engine, "connect")
        def _connect(connection: Any, _record: Any) -> None:
            for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "busy_timeout=30000"):
                connection.execute(f"PRAGMA {pragma}")

    return engine


def main() -> None:
    """Run and print."""
    asked = arguments(__doc__ or "", runs=100, database="", synchronous="FULL")
    with tempfile.TemporaryDirectory() as folder:
        publish("playbooks on DBOS", asked.seed, measure(asked, Path(folder)), asked.json)


def measure(asked: Any, folder: Path) -> list[Row]:
    """Steps a second, and from enqueueing to the first step."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    dbos = importlib.import_module("dbos")
    serialization = importlib.import_module("dbos._serialization")
    imported_s = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    url = asked.database or f"sqlite:///{folder / 'dbos.sqlite'}"
    app = dbos.DBOS(config={
        "name": "bench", "application_version": "1", "system_database_engine": engine_of(url, asked.synchronous),
        "serializer": serialization.DBOSPortableJSONSerializer(), "log_level": "ERROR", "system_database_url": url,
    })  # fmt: skip
    world = sqlite3.connect(folder / "world.sqlite", isolation_level=None, check_same_thread=False, timeout=30)
    world.execute("PRAGMA journal_mode=WAL")
    world.execute("CREATE TABLE effects (key TEXT PRIMARY KEY)")
    started: dict[str, float] = {}

    @dbos.DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]
    def act(run: str, step: str) -> str:
        started.setdefault(run, time.perf_counter())
        world.execute("INSERT INTO effects VALUES (?)", (f"{run}/{step}",))
        return "succeeded"

    @dbos.DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]
    def book(run: str) -> None:
        for step in STEPS:
            act(run, step)

    dbos.DBOS.launch()
    dbos.DBOS.register_queue("playbooks", polling_interval_sec=0.05)
    began, processor = time.perf_counter(), time.process_time()
    handles = [dbos.DBOS.enqueue_workflow("playbooks", book, f"r{number}") for number in range(asked.runs)]
    for handle in handles:
        handle.get_result()
    took, processor = time.perf_counter() - began, time.process_time() - processor
    waits = []
    for number in range(20):
        enqueued = time.perf_counter()
        dbos.DBOS.enqueue_workflow("playbooks", book, f"l{number}").get_result()
        waits.append((started[f"l{number}"] - enqueued) * 1e3)
    app.destroy()
    world.close()
    median, worst = percentiles(waits)
    kind = "PostgreSQL" if url.startswith("postgresql") else f"SQLite, WAL, {asked.synchronous}"
    return [
        Row(kind, "DBOS", "actions", asked.runs * len(STEPS) / took, "1/s"),
        Row(kind, "DBOS", "processor time of an action", processor / asked.runs / len(STEPS) * 1e3, "ms"),
        Row(kind, "DBOS", "runs", asked.runs / took, "1/s"),
        Row(kind, "DBOS", "enqueue to start, median", median, "ms"),
        Row(kind, "DBOS", "enqueue to start, p99", worst, "ms"),
        Row(kind, "DBOS", "import", imported_s, "s"),
        Row(kind, "DBOS", "import, memory", grown, "MiB"),
    ]


if __name__ == "__main__":
    main()
