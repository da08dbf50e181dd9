"""The database: its schema, its durability, its locks, and what it says when it cannot be used."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from simulators.brokers import until
from simulators.postgres import Server, postgres
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from cloud_hub.database.engine import open_engine
from cloud_hub.database.schema import alembic_config
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AuditRow, Command, Device, LostRange, Meta, TwinRow
from cloud_hub.telemetry import samples
from cloud_hub.twins import service as twins
from shared.errors import ConfigError, NotReady


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database without a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fresh.sqlite'}"
        return
    with request.getfixturevalue("postgres_server").database("template1") as address:
        yield address


def test_migrations_make_just_the_tables_of_the_code(db: Database) -> None:
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_the_comparison_would_see_a_missing_column(db: Database) -> None:
    with db.engine.execution_options(writes=True).begin() as connection:
        connection.execute(text("ALTER TABLE commands DROP COLUMN text"))
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, SQLModel.metadata) != []


def test_a_newer_schema_is_refused_with_a_cure(db: Database, url: str) -> None:
    with db.engine.execution_options(writes=True).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer than this hub") as refused:
        Database(url)
    assert "Install the newer version" in refused.value.cure


def test_the_hub_keeps_its_epoch(db: Database, url: str) -> None:
    again = Database(url)
    assert again.hub_epoch == db.hub_epoch != ""
    again.close()


def test_two_hubs_have_two_epochs(db: Database, tmp_path: Path) -> None:
    other = Database(f"sqlite:///{tmp_path / 'deep' / 'down' / 'other.sqlite'}")
    assert other.hub_epoch != db.hub_epoch
    other.close()


@pytest.mark.parametrize(("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)])
def test_each_connection_is_durable(tmp_path: Path, pragma: str, value: object) -> None:
    db = Database(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    with db.engine.connect() as one, db.engine.connect() as two:
        for connection in (one, two):
            assert connection.execute(text(f"PRAGMA {pragma}")).scalar() == value
    db.close()


def together(*works: Callable[[], object]) -> list[Exception]:
    """Run all at once, each in a thread; what went wrong in them."""
    errors: list[Exception] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must show it
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    return errors


def count(db: Database, *devices: str) -> None:
    for _ in range(25):
        with db.write(*devices) as session:
            row = session.get(Meta, "count") or Meta(key="count", value="0")
            row.value = str(int(row.value) + 1)
            session.add(row)


@pytest.mark.parametrize("devices", [(), ("press-3",), ("press-3", "press-4")])
def test_writers_of_two_hubs_wait_for_each_other(db: Database, url: str, devices: tuple[str, ...]) -> None:
    other = Database(url)
    works = [lambda: count(db, *devices), lambda: count(other, *devices), lambda: count(db), lambda: count(other)]
    assert together(*works) == []
    other.close()
    with db.read() as session:
        assert session.get_one(Meta, "count").value == "100"


def test_a_reader_sees_one_moment_and_waits_for_nobody(db: Database) -> None:
    def value() -> str | None:
        session.expire_all()
        row = session.get(Meta, "k")
        return row.value if row else None

    with db.read() as session:
        assert value() is None
        with db.write() as writing:
            writing.add(Meta(key="k", value="new"))
            writing.flush()
            assert value() is None
        assert value() is None
    with db.read() as session:
        assert value() == "new"


def test_two_hubs_that_open_one_new_database_are_one_hub(fresh_url: str) -> None:
    opened: list[Database] = []
    assert together(*[lambda: opened.append(Database(fresh_url))] * 3) == []
    assert len({db.hub_epoch for db in opened}) == 1
    for db in opened:
        db.close()


def test_a_failed_transaction_leaves_nothing(db: Database) -> None:
    def fail() -> None:
        with db.write() as session:
            session.add(Meta(key="half", value="done"))
            session.flush()
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    with db.read() as session:
        assert session.get(Meta, "half") is None


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")
    for bad in (f"sqlite:///{tmp_path / 'file' / 'hub.sqlite'}", f"sqlite:///{tmp_path}"):
        with pytest.raises(ConfigError, match="database"):
            Database(bad)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "hub.sqlite").write_bytes(b"this is a letter to my aunt, not a database\n" * 100)
    with pytest.raises(ConfigError, match="database"):
        Database(f"sqlite:///{tmp_path / 'hub.sqlite'}")


@pytest.mark.parametrize("bad", ["not an address", "oracle9://x/y", "nosuchdialect://localhost/x"])
def test_an_address_that_names_no_database(bad: str) -> None:
    with pytest.raises(ConfigError, match="database"):
        Database(bad)


# -- an older schema -------------------------------------------------------------------------------

OLD = [
    "INSERT INTO meta VALUES ('hub_epoch', 'feed')",
    "INSERT INTO devices VALUES ('press-3', 'x86-64', '0.1.0', 1, 'a/b', 'online', 's', 'e', 'synced',"
    """ '[{"name": "cpu.load"}]', '', 7, 8)""",
    """INSERT INTO twins VALUES ('press-3', '', 4, FALSE, '{"desired": {"a": 1}}', '{"desired": {"a": 2}}', 9)""",
    "INSERT INTO commands VALUES ('c1', 'press-3', 'restart', 'digits', 'sent', '', '{}', 1, 2, NULL, '')",
    "INSERT INTO high_water VALUES (5, 'press-3', 'e', 'telemetry', 12)",
    "INSERT INTO lost VALUES (5, 3, 4, 'evicted')",
    "INSERT INTO telemetry VALUES ('press-3', 'cpu.load', 10, 5, 1, 0.5, NULL, 'good')",
    "INSERT INTO audit (t_us, actor, kind, subject, device, trace_id, detail, hash)"
    """ VALUES (1, 'anna', 'twin.desired', 'twin', 'press-3', '', '{"z": 1e16, "a": 2}', 'h')""",
]
"""Rows as revision 0001 had them, one for each table that has since changed and for those it leans on."""


def test_a_database_of_the_first_schema_is_brought_up_to_date_with_its_rows(fresh_url: str) -> None:
    engine = open_engine(fresh_url)
    with engine.execution_options(writes=True).begin() as connection:
        config = alembic_config(fresh_url)
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in OLD:
            connection.execute(text(statement.replace(":", "\\:")))
    engine.dispose()
    db = Database(fresh_url)
    assert db.hub_epoch == "feed"
    with db.read() as session:
        device = session.get_one(Device, "press-3")
        assert (device.metrics, device.tags, device.tags_version) == ([{"name": "cpu.load"}], {}, 0)
        twin = session.get_one(TwinRow, ("press-3", ""))
        assert (twin.version, twin.deleted, twin.state, twin.owners) == (4, False, {"desired": {"a": 1}}, {})
        sent = session.get_one(Command, "c1")
        assert (sent.mode, sent.args, sent.actor, sent.progress, sent.cancelled_us) == ("direct", {}, "", None, None)
        assert session.get_one(LostRange, (5, 3)).last == 4
        assert samples.stream_counts(session, 5) == (1, 1, 1)
        row = session.get_one(AuditRow, 1)
        assert list(row.detail.items()) == [("z", 1e16), ("a", 2)]  # in the order that the hash was made over
    with db.write() as session:
        messages = twins.update_desired(session, "press-3", "", {"b": 2}, 1, actor="anna", max_bytes=2048)
    assert b'"version":5' in messages[0].payload
    with db.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    db.close()


# -- PostgreSQL ------------------------------------------------------------------------------------


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    with postgres_server.database() as address:
        yield address


def test_both_spellings_of_the_address_reach_it(postgres_url: str) -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        db = Database(postgres_url.replace("postgresql", scheme, 1))
        assert db.engine.dialect.driver == "psycopg"
        db.close()


def test_writers_of_different_devices_do_not_wait_for_each_other(postgres_url: str) -> None:
    db = Database(postgres_url)
    with db.write("press-3") as one, db.write("press-4", "press-5") as two:  # would wait for itself for ever
        one.add(Meta(key="one", value=""))
        two.add(Meta(key="two", value=""))
        one.flush()
        two.flush()
    db.close()


def test_who_is_alone_waits_for_all_others(postgres_url: str) -> None:
    db = Database(postgres_url)
    done = threading.Event()

    def alone() -> None:
        with db.write():
            done.set()

    with db.write("press-3"):
        thread = threading.Thread(target=alone)
        thread.start()
        until("it waits", lambda: _ask(db, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        assert not done.is_set()
    thread.join(30)
    assert done.is_set()
    db.close()


def _ask(db: Database, query: str) -> Any:
    with db.read() as session:
        return session.connection().execute(text(query)).scalar()


@pytest.mark.parametrize(("server_says", "hub_has"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")])
def test_a_commit_waits_for_the_disk_whatever_the_server_says(postgres_url: str, server_says: str, hub_has: str,
                                                              postgres_server: Server) -> None:  # fmt: skip
    name = make_url(postgres_url).database
    postgres_server.run(f"ALTER DATABASE {name} SET synchronous_commit = '{server_says}'")
    db = Database(postgres_url)
    assert _ask(db, "SHOW synchronous_commit") == hub_has
    assert _ask(db, "SHOW lock_timeout") == "30s"
    db.close()


@pytest.mark.parametrize("options", [
    "ENCODING 'SQL_ASCII' LOCALE 'C'", "LOCALE_PROVIDER icu ICU_LOCALE 'en'",
])  # fmt: skip
def test_a_database_of_another_encoding_or_order_is_refused(postgres_server: Server, options: str) -> None:
    postgres_server.run(f"CREATE DATABASE unfit TEMPLATE template0 {options}")
    try:
        with pytest.raises(ConfigError, match="order texts by their bytes") as refused:
            Database(postgres_server.url("unfit"))
        assert "--locale=C" in refused.value.cure
    finally:
        postgres_server.run("DROP DATABASE unfit WITH (FORCE)")


@pytest.mark.parametrize("url", [
    "postgresql://anna:secret@127.0.0.1:1/hub", "postgresql://anna:secret@/hub?host=/nowhere",
    "postgresql://anna:secret@no.such.host.invalid/hub",
])  # fmt: skip
def test_a_server_that_is_away_is_not_ready_and_no_password_is_told(url: str) -> None:
    with pytest.raises(NotReady, match="Is PostgreSQL running") as away:
        Database(url)
    assert "anna:***@" in away.value.reason
    assert "secret" not in away.value.reason


def test_a_database_that_does_not_exist_is_told(postgres_server: Server) -> None:
    with pytest.raises(NotReady, match='database "nobody" does not exist'):
        Database(postgres_server.url("nobody"))


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"tidegate\[postgres\]"):
        Database("postgresql://localhost/hub")


def test_a_user_who_may_not_make_tables_is_told(postgres_server: Server, fresh_url: str) -> None:
    if not fresh_url.startswith("postgresql"):
        return
    postgres_server.run("CREATE USER guest")
    with pytest.raises(ConfigError, match="permission denied"):
        Database(fresh_url.replace("tidegate@", "guest@"))


def test_a_server_that_ends_in_the_middle_is_not_ready_and_nothing_is_left_half_done() -> None:
    def half() -> None:
        with db.write("press-3") as session:
            session.add(Meta(key="half", value="done"))
            session.flush()
            server.stop()

    with postgres() as server, server.database() as address:
        db = Database(address)
        with pytest.raises(NotReady):
            half()
        with pytest.raises(NotReady):
            _ask(db, "SELECT 1")
        server.start()
        assert _ask(db, "SELECT count(*) FROM meta WHERE key = 'half'") == 0
        db.close()


# -- whose fault -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("statement", "content"), [
    ("INSERT INTO meta VALUES ('hub_epoch', '')", True),
    ("INSERT INTO meta VALUES (NULL, '')", True),
    ("SELECT '9223372036854775808'::bigint", True),
    ("SELECT '\"\\u0000\"'::jsonb", True),
    ("SELECT 1 FROM nowhere", False),
    ("SELECT pg_terminate_backend(pg_backend_pid())", False),
    ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)", False),
    ("SET TRANSACTION READ ONLY; INSERT INTO meta VALUES ('a', '')", False),
])  # fmt: skip
def test_only_what_was_said_is_blamed_on_who_said_it(postgres_url: str, statement: str, content: bool) -> None:
    db = Database(postgres_url)
    expected: type[Exception] = DBAPIError if content else NotReady
    with pytest.raises(expected), db.write() as session:
        session.connection().exec_driver_sql(statement)
    db.close()
