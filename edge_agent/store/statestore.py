"""Durable key -> JSON store on SQLite, for state other than the outbox: twin documents, active alarms, results of
commands. Also holds the requests of `tidegate-edge twin set`, `ask` and `write try`, which another process writes
(`edge_agent.twin.local_cli`).
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.store.disk import Disk, found_damage, found_full
from shared.errors import ConfigError, NotReady

log = logging.getLogger(__name__)

SCHEMA_VERSION = 3
SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (id INTEGER PRIMARY KEY AUTOINCREMENT, document TEXT NOT NULL, wanted BLOB NOT NULL,
                                     answer BLOB);
"""
QUESTION = "?"
"""In place of a document: a request that is a question to a language model. No twin document has this name."""
WRITE_TRIAL = "?write"
"""In place of a document: a request to judge a write from SCADA without carrying it out."""
ANSWERS = 100
"""Number of answered requests that are kept."""


def state_dir(name: str) -> Path:
    """The state directory, created with mode 0700 if it is missing; raises ConfigError if it cannot be written."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "writable").write_bytes(b"")
    except OSError as error:
        if error.errno == errno.ENOSPC and folder.is_dir():
            return folder  # the stores handle a full disk
        raise ConfigError("device.state_dir", f"cannot be written ({error})", "Give a folder of this user") from error
    return folder


def open_database(path: Path, version: int, schema: str, disk: Disk | None = None) -> sqlite3.Connection:
    """Open or create a SQLite file with WAL and FULL; a damaged file is moved aside, one of a newer schema is refused.

    Raises ConfigError, or NotReady on a full disk.
    """
    disk = disk or Disk(path.parent, reserve=0)
    try:
        return _open(path, version, schema)
    except sqlite3.DatabaseError as error:
        if found_full(error) and disk.release_reserve():
            return open_database(path, version, schema, disk)
        if found_damage(error):
            disk.set_aside(path, str(error))
            return _open(path, version, schema)
        if "disk is full" in str(error):
            raise NotReady(f"{path}: the disk is full, and nothing stands aside for that any more") from error
        raise ConfigError(str(path), f"cannot be opened ({error})", "Check owner, mode and disk") from error


def schema_mark(path: Path, version: int) -> int:
    """Checksum of the schema version, stored in the file: a bit error must not look like a newer schema."""
    return zlib.crc32(f"{path.name} {version}".encode()) >> 1


def _open(path: Path, version: int, schema: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        if found > version and mark != schema_mark(path, found):
            raise sqlite3.DatabaseError(f"the number of its schema, {found}, is none of this store")
        if found > version:
            raise ConfigError(str(path), f"was written by a newer agent (schema {found})", "Install that version again")
        # Finds damaged pages now, instead of at later reads after every start.
        state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        connection.executescript(schema)
        if found != version:  # write only if something changed: the disk may be full
            connection.execute(f"PRAGMA user_version={version}")
        if mark != schema_mark(path, version):
            connection.execute(f"PRAGMA application_id={schema_mark(path, version)}")
    except BaseException:
        connection.close()
        raise
    return connection


def checksum(key: object, value: bytes) -> int:
    """Checksum of a row."""
    return zlib.crc32(value, zlib.crc32(str(key).encode()))


class StateStore:
    """Stores small values by key, and requests by number."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._path, self._disk = path, disk or Disk(path.parent, reserve=0)
        self._begin()

    def _begin(self) -> None:
        self._db = open_database(self._path, SCHEMA_VERSION, SCHEMA, self._disk)
        if "crc" not in {row[1] for row in self._db.execute("PRAGMA table_info(kept)")}:
            self._db.execute("ALTER TABLE kept ADD COLUMN crc INTEGER")  # schema 2 had no checksum
        self._seen: dict[str, int] = {}
        self._first_seen = self._data_version()

    def get(self, key: str, default: Any = None, kind: Any = Any) -> Any:
        """The value of `key`, decoded as `kind`; `default` if there is none or the row is damaged."""
        for _, value in self._rows("SELECT key, value, crc FROM kept WHERE key=?", key):
            try:
                return msgspec.convert(value, kind)
            except msgspec.ValidationError as error:  # a row of schema 2, without a checksum
                self._row_damaged(key, str(error))
        return default

    def below(self, prefix: str) -> dict[str, Any]:
        """All values whose keys begin with `prefix`, by the remainder of the key."""
        rows = self._rows("SELECT key, value, crc FROM kept WHERE substr(key, 1, ?) = ?", len(prefix), prefix)
        return {key[len(prefix) :]: value for key, value in rows}

    def put(self, key: str, value: Any) -> None:
        """Store `value` as `key`; durable when this returns."""
        encoded = msgspec.json.encode(value)
        row = (key, encoded, checksum(key, encoded))
        try:
            self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", row)
        except sqlite3.DatabaseError as error:
            if found_damage(error):
                self._give_up(str(error))
            elif not (found_full(error) and self._disk.release_reserve()):
                raise
            self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", row)

    def _rows(self, query: str, *arguments: Any) -> list[tuple[str, Any]]:
        """(key, value) of each valid row; a damaged row is deleted and reported."""
        try:
            found = self._db.execute(query, arguments).fetchall()
        except sqlite3.DatabaseError as error:
            if not found_damage(error):
                raise
            self._give_up(str(error))
            return []
        valid = []
        for key, value, crc in found:
            if isinstance(value, bytes) and crc in (None, checksum(key, value)):
                with suppress(msgspec.DecodeError):
                    valid.append((key, msgspec.json.decode(value)))
                    continue
            self._row_damaged(key, "it does not fit its checksum")
        return valid

    def _row_damaged(self, key: str, reason: str) -> None:
        log.error("store.row_damaged", extra={"fields": {"path": str(self._path), "key": str(key), "reason": reason}})
        self._disk.damaged[self._path.name] = f"row '{key}': {reason}"
        self._db.execute("DELETE FROM kept WHERE key=?", (key,))

    def _give_up(self, reason: str) -> None:
        """Move the damaged file aside and begin a new one. The hub sends its documents again."""
        self._db.close()
        self._disk.set_aside(self._path, reason)
        self._begin()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- requests ----------------------------------------------------------------------------------

    def changed(self, reader: str = "twins") -> bool:
        """Whether another process has written since the last call of this reader."""
        before, now = self._seen.get(reader, self._first_seen), self._data_version()
        self._seen[reader] = now
        return now != before

    def requests(self) -> list[tuple[int, str, Any]]:
        """(number, document, wanted) of each request for a document without an answer, in order."""
        return [row for row in self._unanswered() if row[1] not in {QUESTION, WRITE_TRIAL}]

    def questions(self) -> list[tuple[int, Any]]:
        """(number, question) of each question without an answer, in order."""
        return [(number, question) for number, document, question in self._unanswered() if document == QUESTION]

    def write_trials(self) -> list[tuple[int, Any]]:
        """(number, {metric, value}) of each write to be judged without an answer, in order."""
        return [(number, wanted) for number, document, wanted in self._unanswered() if document == WRITE_TRIAL]

    def _unanswered(self) -> list[tuple[int, str, Any]]:
        try:
            query = "SELECT id, document, wanted FROM requests WHERE answer IS NULL ORDER BY id"
            rows = self._db.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            if not found_damage(error):
                raise
            self._give_up(str(error))
            return []
        return [(number, document, msgspec.json.decode(wanted)) for number, document, wanted in rows]

    def answer(self, number: int, answer: Any) -> None:
        """Store the answer to a request."""
        self._db.execute("UPDATE requests SET answer=? WHERE id=?", (msgspec.json.encode(answer), number))
        self._db.execute("DELETE FROM requests WHERE answer IS NOT NULL AND id <= ?", (number - ANSWERS,))

    def _data_version(self) -> int:
        found: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        return found
