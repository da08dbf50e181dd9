"""Copies a database to one file and back: SQLite by its online backup, PostgreSQL by pg_dump and pg_restore."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.engine import make_url

from cloud_hub.errors import BackupError

PAGES = 4096
"""Pages copied between two progress reports."""

MEMBER = {"sqlite": "database.sqlite", "postgresql": "database.dump"}


def database_kind(url: str) -> str:
    """`sqlite` or `postgresql`."""
    return "sqlite" if make_url(url).get_backend_name() == "sqlite" else "postgresql"


def sqlite_path(url: str) -> Path:
    """The database's file."""
    return Path(make_url(url).database or "hub.sqlite")


def save(url: str, target: Path, percent: Callable[[int], None]) -> None:
    """Write a consistent copy to the new file `target` while a hub may write; raises BackupError."""
    if database_kind(url) == "postgresql":
        _postgres(url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}")
        return
    source = sqlite_path(url)
    if not source.exists():
        raise BackupError(f"{source}: is not there, so there is nothing to back up (is this the hub's configuration?)")
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=rw", uri=True)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            # The read transaction holds the snapshot, so the copy does not restart when a hub writes.
            old.execute("BEGIN")
            old.execute("SELECT count(*) FROM sqlite_master").fetchone()
            old.backup(new, pages=PAGES, progress=lambda _, left, all_: percent(100 - 100 * left // max(1, all_)))
            new.execute("PRAGMA journal_mode=DELETE")  # one file without a -wal file
            _sound(new, str(source))
    except sqlite3.Error as error:
        raise BackupError(f"{source}: cannot be copied ({error})") from error


def load(url: str, source: Path) -> None:
    """Put a PostgreSQL dump into an empty database, in one transaction; raises BackupError."""
    options = ("--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error")
    _postgres(url, "pg_restore", *options, str(source))


def check(path: Path) -> None:
    """Raise BackupError unless the SQLite file passes its integrity check."""
    try:
        with closing(sqlite3.connect(path)) as db:
            _sound(db, path.name)
    except sqlite3.Error as error:
        raise BackupError(f"{path.name}: is no sound database ({error})") from error


def _sound(db: sqlite3.Connection, name: str) -> None:
    state = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if state != "ok":
        raise BackupError(f"{name}: the database is damaged ({state}). See docs/operations.md, Damaged stores")


def _postgres(url: str, program: str, *arguments: str) -> None:
    binary = shutil.which(program)
    if binary is None:
        raise BackupError(f"{program} is not installed here: apt-get install postgresql-client")
    address, environment = _conninfo(make_url(url))
    command = [binary, f"--dbname={address}", *arguments]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise BackupError(f"{program}: {' '.join(made.stderr.split())[:500]}")


def _conninfo(url: URL) -> tuple[str, dict[str, str]]:
    """The URL without its password, which is passed in the environment: other users can read a command line."""
    plain = url.set(drivername="postgresql", password=None)
    secret = {"PGPASSWORD": str(url.password)} if url.password else {}
    return plain.render_as_string(hide_password=False), os.environ | secret
