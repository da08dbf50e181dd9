"""What the agent must remember across a crash, apart from the outbox: twin documents, standing alarms, results
of commands. A small key -> JSON store on SQLite, durable before `put` returns. Beside it the requests of a person
on site, which another process writes (`edge_agent.onsite`).
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import ConfigError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (id INTEGER PRIMARY KEY AUTOINCREMENT, document TEXT NOT NULL, wanted BLOB NOT NULL,
                                     answer BLOB);
"""
ANSWERS = 100
"""So many answered requests are kept."""


def state_dir(name: str) -> Path:
    """The device's folder, made with mode 0700 when it is not there; raises ConfigError when it cannot be written."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "writable").write_bytes(b"")
    except OSError as error:
        raise ConfigError("device.state_dir", f"cannot be written ({error})", "Give a folder of this user") from error
    return folder


def open_database(path: Path, version: int, schema: str) -> sqlite3.Connection:
    """Open or make a SQLite file with WAL and FULL; a damaged one is moved aside, a newer one is refused."""
    try:
        return _open(path, version, schema)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
            raise ConfigError(str(path), f"cannot be opened ({error})", "Check owner, mode and disk") from error
        log.error("store.damaged", extra={"fields": {"path": f"{path}.damaged", "reason": str(error)}})
        for suffix in ("", "-wal", "-shm"):
            file = Path(f"{path}{suffix}")
            if file.exists():
                file.replace(f"{path}.damaged{suffix}")
        return _open(path, version, schema)


def _open(path: Path, version: int, schema: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > version:
            raise ConfigError(str(path), f"was written by a newer agent (schema {found})", "Install that version again")
        # A damaged page inside would else be met by every later read, at every start anew.
        state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        connection.executescript(schema)
        connection.execute(f"PRAGMA user_version={version}")
    except BaseException:
        connection.close()
        raise
    return connection


class Keep:
    """Durable small values by key, and requests by number."""

    def __init__(self, path: Path) -> None:
        self._db = open_database(path, SCHEMA_VERSION, SCHEMA)
        self._seen = self._data_version()

    def get(self, key: str, default: Any = None, kind: Any = Any) -> Any:
        """The value under `key`, read as `kind`, or `default`."""
        row = self._db.execute("SELECT value FROM kept WHERE key=?", (key,)).fetchone()
        return default if row is None else msgspec.json.decode(row[0], type=kind)

    def below(self, prefix: str) -> dict[str, Any]:
        """All values whose keys begin with `prefix`, by the rest of the key."""
        rows = self._db.execute("SELECT key, value FROM kept WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
        return {key[len(prefix) :]: msgspec.json.decode(value) for key, value in rows}

    def put(self, key: str, value: Any) -> None:
        """Store `value` under `key`; it is on disk when this returns."""
        self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (key, msgspec.json.encode(value)))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- requests ----------------------------------------------------------------------------------

    def changed(self) -> bool:
        """Whether another process has written since this was asked last."""
        before, self._seen = self._seen, self._data_version()
        return self._seen != before

    def requests(self) -> list[tuple[int, str, Any]]:
        """(number, document, wanted) of each request without an answer, in order."""
        rows = self._db.execute("SELECT id, document, wanted FROM requests WHERE answer IS NULL ORDER BY id").fetchall()
        return [(number, document, msgspec.json.decode(wanted)) for number, document, wanted in rows]

    def answer(self, number: int, answer: Any) -> None:
        """What became of a request."""
        self._db.execute("UPDATE requests SET answer=? WHERE id=?", (msgspec.json.encode(answer), number))
        self._db.execute("DELETE FROM requests WHERE answer IS NOT NULL AND id <= ?", (number - ANSWERS,))

    def _data_version(self) -> int:
        found: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        return found
