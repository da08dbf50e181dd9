"""Twin changes and telemetry a second into SQLite and into PostgreSQL, through the hub's own functions.

    python -m benchmarks.database [--seconds 3] [--json FILE]

Both commit to the disk (SQLite: WAL, synchronous=FULL; PostgreSQL: as delivered, fsync and synchronous_commit on, over
its unix socket). Baseline, in the same run: bare one-row commits of each. Without REST and MQTT: only the database.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from benchmarks.report import Row, arguments, publish
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device
from cloud_hub.ingest.core.router import route
from cloud_hub.ingest.writer import Writer, WriteResults
from cloud_hub.twins import service as twins
from shared.protocol import topics
from shared.protocol.codec import encode
from shared.protocol.messages import Batch

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the throwaway server of the tests
from simulators.postgres import postgres

NOW = 1_800_000_000_000_000
THREADS = 8
STATE = {f"part{n}": {"temperature": 20.5 + n, "state": "running", "starts": n} for n in range(16)}
"""Reported state of about 1 KB; each change touches one leaf."""


def rate(seconds: float, step: Callable[[int], None], threads: int = 1) -> float:
    """Calls of `step(thread)` a second, over all threads."""
    done, ends = [0] * threads, time.perf_counter() + seconds

    def work(thread: int) -> None:
        while time.perf_counter() < ends:
            step(thread)
            done[thread] += 1

    began = time.perf_counter()
    running = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    return sum(done) / (time.perf_counter() - began)


def bare_commits(db: Database, seconds: float) -> float:
    """Commits of one small row a second, with nothing of the hub in the way."""
    numbers = itertools.count()
    with db.engine.execution_options(writes=True).connect() as connection:
        connection.execute(text("CREATE TABLE bare (id INTEGER PRIMARY KEY, v TEXT)"))
        connection.commit()

        def step(_thread: int) -> None:
            connection.execute(text("INSERT INTO bare VALUES (:id, 'x')"), {"id": next(numbers)})
            connection.commit()

        return rate(seconds, step)


def twin_changes(db: Database, seconds: float, threads: int) -> float:
    """Reported changes a second, each in a transaction of its own; each thread has a device of its own."""
    names = [f"twin-{threads}-{n}" for n in range(threads)]
    with db.write() as session:
        session.add_all(Device(id=name) for name in names)
    numbers = itertools.count()

    def report(name: str, state: object) -> None:
        body = encode({"state": {"reported": state}})
        with db.write(name) as session:
            twins.handle_request(session, name, "", "update", body, NOW, actor=name, max_bytes=32768)

    for name in names:
        report(name, STATE)
    return rate(seconds, lambda n: report(names[n], {"part3": {"starts": next(numbers)}}), threads)


def telemetry_rows(db: Database, seconds: float, batch: int, together: int) -> float:
    """Rows a second: `together` messages of `batch` samples in one transaction, as ingest does it."""
    writer, firsts = Writer(db.hub_epoch, 32768), itertools.count(1, batch)
    device = f"meter-{together}"
    topic = topics.thing(device, "telemetry")

    def step(_thread: int) -> None:
        said = []
        with db.write(device) as session:
            for first in itertools.islice(firsts, together):
                items = [{"metric": "cpu.load", "t_us": NOW + n, "value": n * 0.5} for n in range(first, first + batch)]
                said.append((route(topic, encode(Batch(epoch="e1", first=first, items=items))), ""))
            writer.write(session, said, NOW, WriteResults())

    return rate(seconds, step) * batch * together


def measure(name: str, db: Database, seconds: float) -> list[Row]:
    """All figures of one database."""
    return [
        Row(name, "bare commit of one row", "rate", bare_commits(db, seconds), "1/s"),
        Row(name, "twin change, one at a time", "rate", twin_changes(db, seconds, 1), "1/s"),
        Row(name, f"twin change, {THREADS} threads", "rate", twin_changes(db, seconds, THREADS), "1/s"),
        Row(name, "telemetry, 100 in a commit", "rows", telemetry_rows(db, seconds, 100, 1), "1/s"),
        Row(name, "telemetry, 20 x 100 in a commit", "rows", telemetry_rows(db, seconds, 100, 20), "1/s"),
    ]


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", seconds=3.0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{folder}/hub.sqlite")
        rows += measure("SQLite", db, options.seconds)
        db.close()
    try:
        with postgres(durable=True) as server, server.database() as url:
            db = Database(url)
            rows += measure("PostgreSQL", db, options.seconds)
            db.close()
    except pytest.skip.Exception as missing:
        print(f"{missing}: left out")
    publish("database", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
