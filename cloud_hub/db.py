"""The database: SQLite in WAL mode with FULL commits, or PostgreSQL. `read` and `write` give sessions.

A reader sees one snapshot and waits for nobody. A writer without a name is alone in the database; on PostgreSQL a
writer that names its devices shares it with the writers of other devices, in this hub and in any other. Both kinds
take all their locks before their first statement and in one order, so that no two of them ever wait for each other.
Opening brings the schema up to date; a newer schema is refused.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)  # fmt: skip
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session

from cloud_hub.tables import Meta
from shared.codec import encode
from shared.errors import ConfigError, NotReady

WAIT_S = 30
"""How long a writer waits for another one, and for a connection, before it gives up for now."""
IDLE_S = 120
"""A hub that sleeps inside a transaction this long is cut off by PostgreSQL, so that the other hubs go on."""

_HUB, _DEVICES = 0x7467, 0x7468
"""Spaces of PostgreSQL's advisory locks. In the first: 0 the database, 1 the end of the audit trail."""
_LONG = re.compile(rb"[1-9]\d{19}")
_POOL = {"pool_size": 10, "max_overflow": 20, "pool_timeout": WAIT_S, "pool_pre_ping": True}
_CONNECT = {
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "tcp_user_timeout": "30000",
    "application_name": "tidegate-hub",
}


class Database:
    """An open database with an up-to-date schema. Raises ConfigError, or NotReady while the server is away."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self._writing = nullcontext() if _is_postgres(self.engine) else threading.Lock()
        self._writes = self.engine.execution_options(writes=True)
        self._reads = self.engine
        if _is_postgres(self.engine):
            self._reads = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        try:
            fits(self.engine)
            migrate(self.engine, url)
            self.hub_epoch = self._hub_epoch()
        except BaseException:
            self.engine.dispose()
            raise

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading; everything it reads is of one moment."""
        with _translated(), Session(self._reads, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self, *devices: str) -> Iterator[Session]:
        """A session for one transaction; committed at the end, rolled back on any exception.

        With `devices`, it may change their rows only, and add to the audit trail.
        """
        # SQLite has one writer; who waits for this lock goes on at once, who waits for the file's sleeps.
        with _translated(), self._writing, Session(self._writes, expire_on_commit=False) as session, session.begin():
            session.info["devices"] = frozenset(devices)
            if _is_postgres(self.engine):
                _take_locks(session.connection(), devices)
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


# -- locks -----------------------------------------------------------------------------------------


def _take_locks(connection: Connection, devices: Iterable[str]) -> None:
    keys = sorted({zlib.crc32(device.encode()) - (1 << 31) for device in devices})
    shared = "_shared" if keys else ""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock{shared}({_HUB}, 0)")
    if keys:
        query = "SELECT pg_advisory_xact_lock(%s, key) FROM unnest(%s::int[]) AS key"
        connection.exec_driver_sql(query, (_DEVICES, keys))


def owns(session: Session, device: str) -> None:
    """Raise RuntimeError unless this session may change `device`: its transaction would not be safe."""
    devices = session.info.get("devices")
    if devices is None or (devices and device not in devices):
        raise RuntimeError(f"twin of '{device}' changed outside `write()` or `write('{device}')`")


def lock_trail(session: Session) -> None:
    """Wait until no other transaction adds to the audit trail; held until the end of this one.

    Taken after all others: who holds it waits for nobody.
    """
    if session.info.get("devices") and session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql(f"SELECT pg_advisory_xact_lock({_HUB}, 1)")


# -- errors ----------------------------------------------------------------------------------------


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if blames_content(error):
            raise
        raise NotReady(f"the database does not answer as it should ({_said(error)})") from error
    except PoolTimeoutError as error:
        raise NotReady(f"no connection to the database was free within {WAIT_S} s") from error


def blames_content(error: DBAPIError) -> bool:
    """Whether the database refused what it was given; all else passes, or is mended by the operator."""
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state:  # SQLSTATE classes: data, integrity, limits such as the largest row of an index
        return state[:2] in {"22", "23", "54"}
    refused = isinstance(error, (DataError, IntegrityError, ProgrammingError, InterfaceError))
    return refused and not error.connection_invalidated


def _said(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())[:500]


# -- opening ---------------------------------------------------------------------------------------


def _address(url: str) -> URL:
    parsed = make_url(url)
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def shown(url: str) -> str:
    """The address without its password."""
    return _address(url).render_as_string(hide_password=True)


def open_engine(url: str) -> Engine:
    """An engine, not connected yet; raises ConfigError when the address is none or its driver is missing."""
    try:
        parsed = _address(url)
        if parsed.get_backend_name() == "postgresql":
            return _postgres(parsed)
        return _sqlite(parsed)
    except ModuleNotFoundError as error:
        raise ConfigError("database", f"needs {error.name}", "Install it: pip install 'tidegate[postgres]'") from error
    except (ArgumentError, ImportError, OSError) as error:
        cure = "Set `state_dir` or `database` to what this user may write"
        raise ConfigError("database", str(error), cure) from error


def _json(loads: Any) -> dict[str, Any]:
    return {"json_serializer": lambda value: encode(value).decode(), "json_deserializer": loads}


def _sqlite(parsed: URL) -> Engine:
    if parsed.get_backend_name() == "sqlite":
        Path(parsed.database or "hub.sqlite").parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(parsed, connect_args={"timeout": WAIT_S}, **_json(msgspec.json.decode))
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's BEGIN below is the only one
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Any) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_postgres(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"


def _postgres(parsed: URL) -> Engine:
    options = {key: value for key, value in _CONNECT.items() if key not in parsed.query}
    engine = create_engine(parsed, connect_args=options, **_POOL, **_json(_postgres_json))
    event.listen(engine, "connect", _postgres_connect)
    return engine


def _postgres_connect(connection: Any, _record: Any) -> None:
    """What holds for each connection: an acknowledged item is on the disk, and nobody waits for ever."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('synchronous_commit', 'on', false)"
                       " WHERE current_setting('synchronous_commit') = 'off'")  # fmt: skip
        cursor.execute(f"SET lock_timeout = '{WAIT_S}s'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_S}s'")
    connection.commit()


def _postgres_json(data: Any) -> Any:
    """JSONB writes 1e300 as 301 digits: what is too long for 64 bits was a float."""
    raw = data.encode() if isinstance(data, str) else bytes(data)
    return json.loads(raw, parse_int=_narrow) if _LONG.search(raw) else msgspec.json.decode(raw)


def _narrow(digits: str) -> int | float:
    value = int(digits)
    return value if -1 << 63 <= value < 1 << 64 else float(value)


def fits(engine: Engine) -> None:
    """Connect, and raise NotReady when nobody answers or ConfigError when the database cannot hold what devices say."""
    if not _is_postgres(engine):
        return
    try:
        with engine.connect() as connection:
            encoding = connection.scalar(text("SHOW server_encoding"))
            by_bytes = encoding == "UTF8" and connection.scalar(text("SELECT 'B' < 'a' AND 'z' < 'é'"))
    except OperationalError as error:
        cure = "Is PostgreSQL running, and do user, password and database exist (docs/operations.md)?"
        raise NotReady(
            f"database: {shown(str(engine.url))} does not let the hub in ({_said(error)}). {cure}"
        ) from error
    if not by_bytes:
        reason = f"encoding {encoding} or its collation does not order texts by their bytes, as the hub needs it"
        raise ConfigError("database", reason, "Create it by: createdb --template=template0 --encoding=UTF8 --locale=C")


# -- schema ----------------------------------------------------------------------------------------


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
            if _is_postgres(engine):
                _take_locks(connection, ())
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        reason = f"the schema is newer than this hub ({error})"
        raise ConfigError("database", reason, "Install the newer version again, or restore a backup") from error
    except DatabaseError as error:  # no such folder, no right to write, or a file that is no database
        raise ConfigError("database", f"cannot be opened ({error.orig})", "Check path, owner and disk") from error
