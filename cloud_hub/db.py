"""The database: SQLite in WAL mode with FULL commits, or PostgreSQL. `read` and `write` give sessions.

A write session takes SQLite's write lock at once (BEGIN IMMEDIATE), so two writers wait for each other
instead of failing half-way. Opening brings the schema up to date; a newer schema is refused.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlmodel import Session

from cloud_hub.tables import Meta
from shared.codec import encode
from shared.errors import ConfigError

BUSY_S = 30


class Database:
    """An open database with an up-to-date schema."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.is_file = _is_sqlite(url)
        self._writing = threading.Lock() if self.is_file else nullcontext()
        try:
            migrate(self.engine, url)
        except ConfigError:
            self.engine.dispose()
            raise
        self.hub_epoch = self._hub_epoch()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session for one transaction; committed at the end, rolled back on any exception."""
        engine = self.engine.execution_options(writes=True)
        # SQLite has one writer; who waits for this lock goes on at once, who waits for the file's sleeps.
        with self._writing, Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _hub_epoch(self) -> str:
        """This hub's life; `restore` will begin another."""
        with self.write() as session:
            row = session.get(Meta, "hub_epoch")
            if row is None:
                row = Meta(key="hub_epoch", value=f"{secrets.randbits(64):016x}")
                session.add(row)
            return row.value


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            Path(parsed.database or "hub.sqlite").parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = create_engine(
            parsed, connect_args={"timeout": BUSY_S} if _is_sqlite(url) else {},
            json_serializer=lambda value: encode(value).decode(), json_deserializer=msgspec.json.decode,
        )  # fmt: skip
    except (ArgumentError, ImportError, OSError) as error:
        raise ConfigError(
            "database", str(error), "Set `state_dir` or `database` to what this user may write"
        ) from error
    if _is_sqlite(url):
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
    return engine


def _is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's BEGIN below is the only one
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Any) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def alembic_config(url: str) -> Config:
    """Alembic's view of the shipped revisions."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    return config


def migrate(engine: Engine, url: str) -> None:
    """Bring the schema up to date; raises ConfigError when it is newer than this hub."""
    config = alembic_config(url)
    head = ScriptDirectory.from_config(config).get_current_head()
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current == head:
            return
        with engine.execution_options(writes=True).begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        reason = f"the schema is newer than this hub ({error})"
        raise ConfigError("database", reason, "Install the newer version again, or restore a backup") from error
    except DatabaseError as error:  # no such folder, no right to write, or a file that is no database
        raise ConfigError("database", f"cannot be opened ({error.orig})", "Check path, owner and disk") from error
