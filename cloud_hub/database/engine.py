"""Opens a SQLAlchemy engine for SQLite or PostgreSQL and sets up each connection."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from shared.errors import ConfigError, NotReady
from shared.protocol.codec import encode

WAIT_S = 30
"""Timeout in seconds of a writer that waits for a lock or a connection."""
IDLE_S = 120
"""PostgreSQL closes a connection that is idle in a transaction this long, so that other hubs can continue."""

_LONG = re.compile(rb"[1-9]\d{19}")
_POOL = {"pool_size": 10, "max_overflow": 20, "pool_timeout": WAIT_S, "pool_pre_ping": True}
_CONNECT = {
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "tcp_user_timeout": "30000",
    "application_name": "tidegate-hub",
}


def is_postgres(engine: Engine) -> bool:
    """Whether the engine is for PostgreSQL (else SQLite)."""
    return engine.dialect.name == "postgresql"


def error_text(error: DBAPIError) -> str:
    """The database's error message on one line."""
    return " ".join(str(error.orig).split())[:500]


def _address(url: str) -> URL:
    parsed = make_url(url)
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def redacted_url(url: str) -> str:
    """The address without its password."""
    return _address(url).render_as_string(hide_password=True)


def open_engine(url: str) -> Engine:
    """An engine, not connected yet; raises ConfigError if the URL is invalid or its driver is missing."""
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


def _postgres(parsed: URL) -> Engine:
    options = {key: value for key, value in _CONNECT.items() if key not in parsed.query}
    engine = create_engine(parsed, connect_args=options, **_POOL, **_json(_postgres_json))
    event.listen(engine, "connect", _postgres_connect)
    return engine


def _postgres_connect(connection: Any, _record: Any) -> None:
    """Make commits durable and limit how long a connection waits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('synchronous_commit', 'on', false)"
                       " WHERE current_setting('synchronous_commit') = 'off'")  # fmt: skip
        cursor.execute(f"SET lock_timeout = '{WAIT_S}s'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_S}s'")
    connection.commit()


def _postgres_json(data: Any) -> Any:
    """Decode JSON. JSONB writes 1e300 as 301 digits, so a whole number beyond 64 bits was a float."""
    raw = data.encode() if isinstance(data, str) else bytes(data)
    return json.loads(raw, parse_int=_narrow) if _LONG.search(raw) else msgspec.json.decode(raw)


def _narrow(digits: str) -> int | float:
    value = int(digits)
    return value if -1 << 63 <= value < 1 << 64 else float(value)


def check_database(engine: Engine) -> None:
    """Connect; raise NotReady if the server does not answer, ConfigError if its encoding or collation is unsuitable."""
    if not is_postgres(engine):
        return
    try:
        with engine.connect() as connection:
            encoding = connection.scalar(text("SHOW server_encoding"))
            by_bytes = encoding == "UTF8" and connection.scalar(text("SELECT 'B' < 'a' AND 'z' < 'é'"))
    except OperationalError as error:
        cure = "Is PostgreSQL running, and do user, password and database exist (docs/operations.md)?"
        raise NotReady(
            f"database: {redacted_url(str(engine.url))} does not let the hub in ({error_text(error)}). {cure}"
        ) from error
    if not by_bytes:
        reason = f"encoding {encoding} or its collation does not order texts by their bytes, as the hub needs it"
        raise ConfigError("database", reason, "Create it by: createdb --template=template0 --encoding=UTF8 --locale=C")
