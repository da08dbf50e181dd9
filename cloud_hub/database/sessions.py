"""Opens the database (SQLite in WAL mode with FULL commits, or PostgreSQL) and its read and write sessions.

A read session sees one snapshot and never waits. A write session without devices is the only writer. On PostgreSQL, a
write session that names its devices runs beside writers of other devices, in this hub and in others. Opening a database
migrates its schema; a newer schema is refused.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session

from cloud_hub.database import locks
from cloud_hub.database.driver_query import DriverQuery
from cloud_hub.database.engine import WAIT_S, check_database, error_text, is_postgres, open_engine
from cloud_hub.database.schema import migrate
from cloud_hub.database.tables import Meta
from cloud_hub.security.core.roles import Scope
from shared.errors import ConfigError, NotReady


class Database:
    """An open database with an up-to-date schema. Raises ConfigError, or NotReady while the server is away."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self.is_file = not is_postgres(self.engine)
        self._writing = threading.Lock() if self.is_file else nullcontext()
        self._writes = self.engine.execution_options(writes=True)
        self._reads = self.engine
        if not self.is_file:
            self._reads = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        try:
            check_database(self.engine)
            migrate(self.engine, url)
            self.hub_epoch = self._hub_epoch()
        except BaseException:
            self.engine.dispose()
            raise

    @contextmanager
    def read(self, *, scope: Scope = None) -> Iterator[Session]:
        """A session that reads one snapshot, restricted to `scope` if one is given."""
        with _translated(), Session(self._reads, expire_on_commit=False) as session:
            session.info["scope"] = scope
            yield session

    def first(self, query: DriverQuery, **parameters: Any) -> tuple[Any, ...] | None:
        """Read one row by the fastest way. The caller checks the scope."""
        with _translated():
            if self.is_file:
                return query.first(self.engine, parameters)
            with self._reads.connect() as connection:
                row = connection.execute(query.query, parameters).first()
                return None if row is None else tuple(row)

    @contextmanager
    def write(self, *devices: str, scope: Scope = None) -> Iterator[Session]:
        """A session for one transaction: committed at the end, rolled back on any exception.

        With `devices`, it may only change their rows and add to the audit trail. `scope` is as in `read`.
        """
        # SQLite has one writer. A thread that waits for this lock continues at once; SQLite's own lock polls.
        with _translated(), self._writing, Session(self._writes, expire_on_commit=False) as session, session.begin():
            session.info["devices"], session.info["scope"] = frozenset(devices), scope
            if is_postgres(self.engine):
                locks.acquire(session.connection(), devices)
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _hub_epoch(self) -> str:
        """The hub epoch; `restore` begins a new one."""
        with self.write() as session:
            row = session.get(Meta, "hub_epoch")
            if row is None:
                row = Meta(key="hub_epoch", value=f"{secrets.randbits(64):016x}")
                session.add(row)
            return row.value


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if is_content_error(error):
            raise
        raise NotReady(f"the database does not answer as it should ({error_text(error)})") from error
    except sqlite3.Error as error:
        raise NotReady(f"the database does not answer as it should ({error})") from error
    except PoolTimeoutError as error:
        raise NotReady(f"no connection to the database was free within {WAIT_S} s") from error


def is_content_error(error: Exception) -> bool:
    """Whether the database or its driver rejected the data itself; other errors are transient or operational."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, (OverflowError, UnicodeError))
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state:  # SQLSTATE classes: data, integrity, limits such as the largest row of an index
        return state[:2] in {"22", "23", "54"}
    refused = isinstance(error, (DataError, IntegrityError, ProgrammingError, InterfaceError))
    return refused and not error.connection_invalidated


def open_existing(url: str) -> Database:
    """Open a hub's database to read it. ConfigError if its file is missing: a new one would look like an answer."""
    path = make_url(url).database or ""
    if url.startswith("sqlite") and not Path(path).is_file():
        raise ConfigError("database_url", f"there is no database '{path}'", "Give the hub's file with --config FILE")
    return Database(url)
