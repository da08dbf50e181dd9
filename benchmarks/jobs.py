"""Measures a bulk job over many twins, and a configuration's full pass, in one process without a broker.

    python -m benchmarks.jobs [--devices 10000] [--database URL] [--json FILE]

Uses a database in a temporary folder, or the empty one at URL. Baseline, in the same run: the same rows of twins and
history written by bare executemany in one transaction. Messages are created and counted, not published.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import bindparam, insert, update
from sqlmodel import Session, select

from benchmarks.report import Row, arguments, publish
from cloud_hub.clock import now_us
from cloud_hub.configurations import service as configurations
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Configuration, Device, Job, TwinChange, TwinRow
from cloud_hub.jobs import service as jobs
from cloud_hub.security.core.roles import Scope
from cloud_hub.twins.rows import columns
from shared.protocol.codec import encode
from shared.twin import shadow

LIMIT = 32768
REPORTED = {"settings": {"period_s": 1.0}, "models": {"digits": {"digest": "sha256:" + "a" * 64, "starts": 1}},
            "device": {"profile": "x86-64", "version": "0.1.0", "memory_mb": 8192}}  # fmt: skip


class Watched(Database):
    """A database that records how long each write session held the lock."""

    def __init__(self, url: str) -> None:
        self.queued: list[float] = []
        super().__init__(url)

    @contextmanager
    def write(self, *devices: str, scope: Scope = None) -> Iterator[Session]:
        with super().write(*devices) as session:
            began = time.perf_counter()
            yield session
        self.queued.append(time.perf_counter() - began)  # with the commit, for which others wait too


def fill(db: Database, count: int) -> list[str]:
    """Devices with tags and a classic document each."""
    names = [f"device-{number:06}" for number in range(count)]
    document, _ = shadow.update(shadow.Document(), encode({"state": {"reported": REPORTED}}), now_us() // 1_000_000)
    values = columns(document, {})
    with db.write() as session:
        connection = session.connection()
        device = Device(id="", tags={"site": "north"}).model_dump()
        connection.execute(insert(Device), [device | {"id": name} for name in names])
        connection.execute(insert(TwinRow), [values | {"device": name, "name": ""} for name in names])
    return names


def floor(db: Watched) -> float:
    """Seconds for the rows of a job alone: what it left in twins and history is written once more, as it is."""
    with db.read() as session:
        twins = [dict(row._mapping) for row in session.connection().execute(select(TwinRow.__table__))]  # type: ignore[attr-defined]
        changes = [dict(row._mapping) for row in session.connection().execute(select(TwinChange.__table__))]  # type: ignore[attr-defined]
    began = time.perf_counter()
    with db.write() as session:
        connection = session.connection()
        for table, rows in ((TwinRow, twins), (TwinChange, changes)):
            _again(connection, table, rows)
    return time.perf_counter() - began


def _again(connection: Any, table: Any, rows: list[dict[str, Any]]) -> None:
    columns = table.__table__.c
    if table is TwinChange:
        connection.execute(insert(table), [row | {"version": row["version"] + 1_000_000} for row in rows])
        return
    keys = {"device": "b_device", "name": "b_name"}
    statement = update(table.__table__).where(
        columns.device == bindparam("b_device"), columns.name == bindparam("b_name")
    )
    connection.execute(statement, [{keys.get(name, name): value for name, value in row.items()} for row in rows])


def job(db: Watched, kind: str, content: dict[str, Any]) -> tuple[float, int, float]:
    """(seconds, messages, longest hold of the write lock in seconds) of one job over every device."""
    now = now_us()
    row = Job(
        id="",
        kind=kind,
        query="tags.site = 'north'",
        content=content,
        actor="bench",
        created_us=now,
        start_us=now,
        deadline_us=now + 3_600_000_000,
    )
    with db.write() as session:
        jobs.create(session, row, LIMIT)
    db.queued.clear()
    messages, began = 0, time.perf_counter()
    while (done := jobs.run_once(db, now_us(), LIMIT)).again:
        messages += len(done.messages)
    return time.perf_counter() - began, messages, max(db.queued)


def full_pass(db: Watched) -> tuple[float, float]:
    """(seconds, longest hold of the write lock) of one pass of a new reconciler over all devices."""
    loop = ConfigurationReconciler(db, LIMIT, 300)
    db.queued.clear()
    began = time.perf_counter()
    while loop.run_once().again:
        pass
    return time.perf_counter() - began, max(db.queued, default=0.0)


def measure(db: Watched, count: int) -> list[Row]:
    """All figures."""
    data = f"{count} devices"
    fill(db, count)
    rows = []

    def told(method: str, took: float, held: float) -> None:
        rows.extend([
            Row(data, method, "whole", took, "s"), Row(data, method, "devices a second", count / took, "1/s"),
            Row(data, method, "longest write lock", held * 1e3, "ms"),
        ])  # fmt: skip

    took, _, held = job(db, "twin", {"settings": {"period_s": 2.0}})
    told("job: twins", took, held)
    bare = floor(db)
    told("the same rows, bare", bare, bare)
    took, _, held = job(db, "tags", {"line": 3})
    told("job: tags", took, held)
    took, _, held = job(db, "command", {"verb": "diagnose", "target": "processes", "args": {}})
    told("job: commands, queued", took, held)
    with db.write() as session:
        configurations.put(session, configuration(), LIMIT, "")
    for method in ("full pass, all to change", "full pass, nothing to change"):
        told(method, *full_pass(db))
    return rows


def configuration() -> Configuration:
    """A configuration that applies to every device: the job has not changed its leaf."""
    content = {"": {"settings": {"burst": True}}}
    return Configuration(id="bench", target="tags.site = 'north'", content=content, actor="bench", created_us=now_us())


def main() -> None:
    """Run it."""
    given = arguments(__doc__ or "", devices=10_000, database="")
    with tempfile.TemporaryDirectory() as folder:
        db = Watched(given.database or f"sqlite:///{folder}/hub.sqlite")
        rows = measure(db, given.devices)
        db.close()
    publish("jobs", given.seed, rows, given.json)


if __name__ == "__main__":
    main()
