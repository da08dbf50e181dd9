"""The database: its schema, its durability, its locks, and what it says when it cannot be used."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlmodel import SQLModel

from cloud_hub.db import Database
from cloud_hub.tables import Meta
from shared.errors import ConfigError


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


def test_two_writers_wait_for_each_other(db: Database) -> None:
    errors: list[Exception] = []

    def count() -> None:
        try:
            for _ in range(25):
                with db.write() as session:
                    row = session.get(Meta, "count") or Meta(key="count", value="0")
                    row.value = str(int(row.value) + 1)
                    session.add(row)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must show it
            errors.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    with db.read() as session:
        assert session.get_one(Meta, "count").value == "100"


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
