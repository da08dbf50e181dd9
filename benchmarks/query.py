"""Queries over a fleet of twins of about 1 KB, on SQLite and on PostgreSQL.

    python -m benchmarks.query [--devices 10000] [--json FILE]

Beside them, in the same run: all rows loaded and filtered in Python. `rows read` is counted by PostgreSQL (EXPLAIN
ANALYZE); SQLite tells its plan only, where a SCAN of devices and a SEARCH of twins by its key below it are at most one
row a device each. `with an index` is what an index on `tags.site` would give to the bare statement, in a form that
only this benchmark makes.
"""

from __future__ import annotations

import importlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Select, insert, select, text
from sqlmodel import Session

from benchmarks.report import Row, arguments, percentiles, publish
from cloud_hub import query
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, TwinRow
from cloud_hub.query import results
from cloud_hub.query.sql import DEVICES, TWINS
from shared.protocol.codec import encode

ROUNDS = 15
SITES, VERSIONS = 100, ["1.0", "1.1", "1.2", "1.3", "2.0"]
SELECTIVE = "tags.site = 'site-42' AND reported.agent.version != '1.2' AND is_defined(tags.line)"
BROAD = "reported.agent.version != '1.0' AND reported.settings.period_s >= 1"
DEAREST = " AND ".join([f"NOT contains(reported.note, 'z{n}')" for n in range(64)])
GROUPED = "SELECT reported.agent.version AS v, COUNT() AS n FROM devices GROUP BY reported.agent.version"

Loaded = list[tuple[str, dict[str, Any], dict[str, Any]]]


def state(chance: random.Random) -> dict[str, Any]:
    """A document of about 1 KB."""
    reported = {
        "agent": {"version": chance.choice(VERSIONS), "profile": "x86-64", "protocol": 1},
        "settings": {"period_s": chance.choice([1, 2.5, 5, 10]), "log_level": "info"},
        "network": {f"eth{n}": {"mac": f"{chance.getrandbits(48):012x}", "up": True} for n in range(4)},
        "models": {f"model-{n}": {"digest": f"{chance.getrandbits(128):032x}", "state": "active"} for n in range(4)},
        "note": "x" * 300,
    }
    return {"desired": {"settings": {"period_s": 5}}, "reported": reported}


def fill(db: Database, count: int, seed: int) -> int:
    """Make the fleet; returns the mean bytes of a twin's document."""
    chance = random.Random(seed)
    devices, twins, size = [], [], 0
    for number in range(count):
        name = f"device-{number:05}"
        tags = {"site": f"site-{chance.randrange(SITES)}", "line": chance.randrange(20), "rack": f"r{number % 7}"}
        devices.append({"id": name, "state": "online", "tags": tags, "metrics": []})
        document = state(chance)
        size += len(encode(document))
        twins.append({"device": name, "name": "", "version": 1, "deleted": False, "state": document, "marks": {},
                      "owners": {}})  # fmt: skip
    with db.write() as session:
        session.connection().execute(insert(Device), devices)
        session.connection().execute(insert(TwinRow), twins)
    with db.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    return size // count


def took(step: Callable[[], object]) -> float:
    """Median milliseconds."""
    values = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        step()
        values.append((time.perf_counter() - began) * 1e3)
    return percentiles(values)[0]


def loaded(session: Session) -> Loaded:
    """What the baseline begins with: every device's tags and classic document."""
    joined = DEVICES.outerjoin(TWINS, (TWINS.c.device == DEVICES.c.id) & (TWINS.c.name == ""))
    rows = session.connection().execute(select(DEVICES.c.id, DEVICES.c.tags, TWINS.c.state).select_from(joined))
    return [(row.id, row.tags, row.state["reported"]) for row in rows]


def in_python(session: Session) -> dict[str, Callable[[], object]]:
    """The same questions, over everything."""

    def selective() -> list[str]:
        return [device for device, tags, said in loaded(session)
                if tags["site"] == "site-42" and said["agent"]["version"] != "1.2" and "line" in tags]  # fmt: skip

    def broad() -> list[str]:
        return [device for device, _, said in loaded(session)
                if said["agent"]["version"] != "1.0" and said["settings"]["period_s"] >= 1]  # fmt: skip

    def grouped() -> dict[str, int]:
        counts: dict[str, int] = {}
        for _, _, said in loaded(session):
            counts[said["agent"]["version"]] = counts.get(said["agent"]["version"], 0) + 1
        return counts

    return {"selective": selective, "broad": broad, "GROUP BY": grouped}


def rows_read(session: Session, statement: Select[Any], devices: int) -> int:
    """Rows that the database reads for a statement."""
    dialect = session.get_bind().dialect
    compiled = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    given = compiled.params if compiled.positiontup is None else tuple(compiled.params[n] for n in compiled.positiontup)
    head = "EXPLAIN QUERY PLAN " if dialect.name == "sqlite" else "EXPLAIN (ANALYZE, FORMAT JSON) "
    plan = session.connection().exec_driver_sql(head + str(compiled), given).all()
    if dialect.name == "sqlite":
        found: int = devices * sum(str(row[3]).startswith(("SCAN devices", "SCAN twin", "SEARCH twin")) for row in plan)
        return found
    return _scanned(plan[0][0][0]["Plan"])


def _scanned(node: dict[str, Any]) -> int:
    passed = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) if "Relation Name" in node else 0
    return int(passed * node["Actual Loops"]) + sum(_scanned(inner) for inner in node.get("Plans", []))


def indexed(session: Session) -> Callable[[], object]:
    """The selective query with an index on `tags.site`, narrowed by a condition that the index can serve."""
    connection, narrowed = session.connection(), query.matching(session, SELECTIVE)
    if connection.dialect.name == "sqlite":
        connection.execute(text("""CREATE INDEX by_site ON devices (json_extract(tags, '$."site"'))"""))
        narrowed = narrowed.where(text("""json_extract(devices.tags, '$."site"') = 'site-42'"""))
    else:
        connection.execute(text("CREATE INDEX by_tags ON devices USING gin (tags jsonb_path_ops)"))
        narrowed = narrowed.where(text("""devices.tags @> '{"site":"site-42"}'"""))
    connection.execute(text("ANALYZE devices"))
    return lambda: connection.execute(narrowed).all()


def measure(name: str, db: Database, count: int, seed: int) -> list[Row]:
    """All figures of one database."""
    rows = [Row(name, "fleet", "document", fill(db, count, seed), "bytes")]
    with Session(db.engine) as session:
        plans = {asked: query.matching(session, asked) for asked in (SELECTIVE, BROAD, DEAREST)}
        plans[GROUPED] = results.grouped(session, query.parse(GROUPED))
        asked = {"selective": SELECTIVE, "broad": BROAD, "GROUP BY": GROUPED, "64 x contains": DEAREST}
        baseline = in_python(session)
        assert baseline["selective"]() == query.devices(session, SELECTIVE)
        assert baseline["broad"]() == query.devices(session, BROAD)
        for kind, wanted in asked.items():

            def ask(wanted: str = wanted) -> object:
                if wanted == GROUPED:
                    return query.run(session, wanted, limit=100)
                return query.devices(session, wanted)

            rows.append(Row(name, kind, "query", took(ask), "ms"))
            rows.append(Row(name, kind, "rows read (SQLite: at most)", rows_read(session, plans[wanted], count), ""))
            if wanted != GROUPED:
                rows.append(Row(name, kind, "devices found", query.count(session, wanted), ""))
            if kind in baseline:
                rows.append(Row(name, kind, "all loaded, in Python", took(baseline[kind]), "ms"))
        page = f"SELECT * FROM devices WHERE {BROAD}"
        rows.append(Row(name, "broad", "first 100 rows of *", took(lambda: query.run(session, page, limit=100)), "ms"))
        bare = query.matching(session, SELECTIVE)
        alone = took(lambda: session.connection().execute(bare).all())
        rows.append(Row(name, "selective", "bare statement", alone, "ms"))
        session.rollback()
        rows.append(Row(name, "selective", "with an index", took(indexed(session)), "ms"))
        session.rollback()
    return rows


def postgres(stack: ExitStack) -> str:
    """The address of a throwaway PostgreSQL, '' where it is not installed."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    try:
        server = stack.enter_context(importlib.import_module("simulators.postgres").postgres())
        url: str = stack.enter_context(server.database())
    except (ImportError, pytest.skip.Exception) as reason:
        print(f"PostgreSQL is left out: {reason}")
        return ""
    return url


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", devices=10_000)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        urls = {"SQLite": f"sqlite:///{folder}/hub.sqlite", "PostgreSQL": postgres(stack)}
        for name, url in urls.items():
            if url:
                db = Database(url)
                rows += measure(name, db, options.devices, options.seed)
                db.close()
    publish("query", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
