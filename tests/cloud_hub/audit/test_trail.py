"""The audit trail: a chain of hashes that shows what was altered, removed or slipped in; its end it cannot see."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from shared.errors import NotReady
from shared.ids import traceparent

NOW = 1_800_000_000_000_000


@pytest.fixture(autouse=True)
def six_rows(db: Database) -> None:
    with db.write() as session:
        for n in range(1, 7):
            trail.add(
                session, NOW + n, "anna", f"kind.{n % 2}", f"subject {n}", device=f"press-{n % 3}",
                trace=traceparent(n, n), number=n, text="Größe 尺寸",
            )  # fmt: skip


ARMS = {
    "sqlite": [
        f"DROP TRIGGER IF EXISTS audit_{name}" for name in ("no_update", "no_delete", "no_replace", "at_the_end")
    ],
    "postgresql": ["DROP TRIGGER IF EXISTS audit_append_only ON audit"],
}
"""What somebody with the database's own rights does first."""


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'bob' WHERE seq = 3", "DELETE FROM audit"])
def test_the_database_refuses_to_change_or_delete_a_row(db: Database, statement: str) -> None:
    with pytest.raises((DatabaseError, NotReady), match="only added to"), db.write() as session:
        session.connection().execute(text(statement))
    with db.read() as session:
        assert [row.seq for row in trail.rows(session)] == [6, 5, 4, 3, 2, 1]
        assert trail.verify(session) is None


COLUMNS = "t_us, actor, kind, subject, device, trace_id, detail, hash"
FORGED = "5, 'bob', 'kind.1', 's', '', '', '{}', 'ff'"


@pytest.mark.parametrize("statement", [
    "UPDATE audit SET actor = 'bob' WHERE seq = 3",
    "UPDATE OR REPLACE audit SET seq = 4 WHERE seq = 3",
    "DELETE FROM audit WHERE seq = 3",
    f"REPLACE INTO audit (seq, {COLUMNS}) VALUES (3, {FORGED})",
    f"INSERT OR REPLACE INTO audit (seq, {COLUMNS}) VALUES (3, {FORGED})",
    f"INSERT OR IGNORE INTO audit (seq, {COLUMNS}) VALUES (3, {FORGED})",
    f"INSERT INTO audit (seq, {COLUMNS}) VALUES (3, {FORGED}) ON CONFLICT (seq) DO UPDATE SET actor = 'bob'",
    f"INSERT INTO audit (seq, {COLUMNS}) VALUES (0, {FORGED})",
    f"INSERT INTO audit (seq, {COLUMNS}) VALUES (-1, {FORGED})",
])  # fmt: skip
def test_sqlite_refuses_whoever_opens_the_file(db: Database, url: str, statement: str) -> None:
    if not db.is_file:
        pytest.skip("of SQLite")
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
        before = file.execute("SELECT * FROM audit").fetchall()
        for recursive in ("OFF", "ON"):
            file.execute(f"PRAGMA recursive_triggers={recursive}")
            with pytest.raises(sqlite3.IntegrityError, match="only added to"):
                file.execute(statement)
        assert file.execute("SELECT * FROM audit").fetchall() == before
    with db.write() as session:
        trail.add(session, NOW, "anna", "kind.1", "one more")
    with db.read() as session:
        assert trail.verify(session) is None
        assert len(trail.rows(session)) == 7


def test_postgresql_refuses_to_empty_it(db: Database) -> None:
    if not db.is_file:
        with pytest.raises((DatabaseError, NotReady), match="only added to"), db.write() as session:
            session.connection().execute(text("TRUNCATE audit"))


def verify(db: Database, *statements: str, head: tuple[int, str] | None = None) -> int | None:
    with db.write() as session:
        for statement in (*ARMS[db.engine.dialect.name], *statements):
            session.connection().execute(text(statement))
    with db.read() as session:
        return trail.verify(session, head)


def test_an_untouched_chain_holds(db: Database) -> None:
    assert verify(db) is None


@pytest.mark.parametrize("change", [
    "actor = 'bob'", "t_us = t_us + 1", "kind = 'kind.9'", "subject = ''", "device = 'press-9'", "trace_id = ''",
    "detail = '{}'", "hash = 'ff'",
])  # fmt: skip
def test_an_altered_row_is_named(db: Database, change: str) -> None:
    assert verify(db, f"UPDATE audit SET {change} WHERE seq = 3") == 3


def test_the_chain_holds_when_two_hubs_add_to_it_at_once(db: Database, url: str) -> None:
    other = Database(url)

    def add(hub: Database, device: str) -> None:
        for n in range(15):
            with hub.write(device) as session:
                trail.add(session, NOW, "anna", "kind.3", "s", device=device, number=n, far=1e300, z=1, a=2)

    threads = [threading.Thread(target=add, args=(hub, f"press-{n}")) for n, hub in enumerate([db, other, db, other])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    other.close()
    assert verify(db) is None
    with db.read() as session:
        assert len(trail.rows(session, kind="kind.3")) == 60


@pytest.mark.parametrize("kind", ["kind.%", "kind_1", "KIND", "kind.1%"])
def test_a_kind_is_a_prefix_and_no_pattern(db: Database, kind: str) -> None:
    with db.read() as session:
        assert trail.rows(session, kind=kind) == []


def test_a_deleted_row_is_shown_by_the_one_after_it(db: Database) -> None:
    assert verify(db, "DELETE FROM audit WHERE seq = 3") == 4
    assert verify(db, "DELETE FROM audit WHERE seq = 1") == 2


def test_a_row_slipped_in_is_named(db: Database) -> None:
    columns = "t_us, actor, kind, subject, device, trace_id, detail, hash"
    assert verify(
        db, "UPDATE audit SET seq = seq + 100 WHERE seq > 3",
        f"INSERT INTO audit (seq, {columns}) SELECT 4, {columns} FROM audit WHERE seq = 3",
    ) == 4  # fmt: skip


def test_swapped_rows_are_named(db: Database) -> None:
    assert verify(db, "UPDATE audit SET seq = 99 WHERE seq = 2", "UPDATE audit SET seq = 2 WHERE seq = 3",
                  "UPDATE audit SET seq = 3 WHERE seq = 99") == 2  # fmt: skip


def test_a_cut_tail_is_not_found(db: Database) -> None:
    """The documented limit: nothing after the end says that there was more."""
    assert verify(db, "DELETE FROM audit WHERE seq > 4") is None


def test_a_cut_tail_shows_where_the_head_was_written_down(db: Database) -> None:
    with db.read() as session:
        head = trail.head(session)
    assert (head[0], verify(db, head=head)) == (6, None)
    with db.write() as session:
        trail.add(session, NOW, "anna", "kind.2", "later")
    assert verify(db, head=head) is None
    assert verify(db, "DELETE FROM audit WHERE seq > 4", head=head) == 6


def test_a_chain_made_anew_shows_where_the_head_was_written_down(db: Database) -> None:
    with db.read() as session:
        head = trail.head(session)
    assert verify(db, "DELETE FROM audit", head=head) == 6
    with db.write() as session:
        for n in range(9):
            trail.add(session, NOW + n, "bob", "kind.1", "forged")
    assert verify(db) is None
    with db.read() as session:
        assert trail.verify(session, (trail.rows(session)[3].seq or 0, head[1])) is not None


def test_an_empty_trail_has_a_head(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    with db.read() as session:
        assert trail.head(session) == (0, trail.GENESIS)
        assert trail.verify(session) is None
    db.close()


def _numbers(session: Session, **query: Any) -> list[int | None]:
    return [row.seq for row in trail.rows(session, **query)]


def test_rows_by_time_and_who(db: Database) -> None:
    with db.read() as session:
        assert _numbers(session, since_us=NOW + 3, until_us=NOW + 5) == [4, 3]
        assert _numbers(session, actor="anna", since_us=NOW + 6) == [6]
        assert _numbers(session, actor="ann") == []


def test_pages_miss_no_row_and_tell_none_twice_while_others_come(db: Database) -> None:
    found: list[int | None] = []
    with db.read() as session:
        page = trail.rows(session, limit=2)
    while page:
        found += [row.seq for row in page]
        with db.write() as session:
            trail.add(session, NOW, "anna", "kind.1", "in between")
        with db.read() as session:
            page = trail.rows(session, after=page[-1].seq, limit=2)
    assert found == [6, 5, 4, 3, 2, 1]


def test_an_export_is_in_order_and_can_be_verified_by_others(db: Database) -> None:
    with db.read() as session:
        wanted = trail.AuditFilter(since_us=NOW + 2, device="press-0")
        assert [row["seq"] for row in trail.export(session, wanted)] == [3, 6]
        before = trail.GENESIS
        for row in trail.export(session, trail.AuditFilter()):  # the recipe of docs/security.md
            covered = [row[name] for name in ("t_us", "actor", "kind", "subject", "device", "trace_id", "detail")]
            line = json.dumps([before, *covered], ensure_ascii=False, separators=(",", ":"))
            assert hashlib.sha256(line.encode()).hexdigest() == row["hash"]
            before = row["hash"]


def test_rows_by_device_kind_and_trace(db: Database) -> None:
    with db.read() as session:
        assert _numbers(session) == [6, 5, 4, 3, 2, 1]
        assert _numbers(session, device="press-0") == [6, 3]
        assert _numbers(session, kind="kind.1") == [5, 3, 1]
        assert _numbers(session, kind="kind") == [6, 5, 4, 3, 2, 1]
        assert _numbers(session, trace=f"{5:032x}") == [5]
        assert [row.seq for row in trail.rows(session, limit=2)] == [6, 5]
