"""Databases of either kind for tests: empty ones, and copies of one that was filled once for many tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from cloud_hub.database.sessions import Database

KINDS = ("sqlite", "postgresql")


@contextmanager
def empty(folder: Path, server: Any) -> Iterator[str]:
    """The address of a fresh database: of a PostgreSQL `server`, or without one an SQLite file in `folder`."""
    if server is None:
        yield f"sqlite:///{folder / 'hub.sqlite'}"
        return
    with server.database() as address:
        yield address


@contextmanager
def copied(url: str, folder: Path, server: Any) -> Iterator[str]:
    """The address of a copy of the database at `url`, which nobody may have open."""
    name = make_url(url).database
    assert name is not None
    if server is None:
        yield f"sqlite:///{shutil.copy(name, folder / 'hub.sqlite')}"
        return
    with server.database(template=name) as address:
        yield address


def filled(url: str, fill: Callable[[Database], None]) -> str:
    """The address again, after `fill` has written there; closed, so that it can be copied."""
    db = Database(url)
    fill(db)
    db.close()
    return url


def address(db: Database) -> str:
    """Where it is: for a second hub that opens it."""
    return db.engine.url.render_as_string(hide_password=False)
