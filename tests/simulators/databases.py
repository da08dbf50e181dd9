"""Databases of either kind for tests: empty ones, and copies of one that was filled once for many tests.

An empty one is a copy too: of a template that Alembic made once. To run the revisions for each test would cost most of
the time of the small tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import make_url

from cloud_hub.database.engine import open_engine
from cloud_hub.database.schema import migrate
from cloud_hub.database.sessions import Database

KINDS = ("sqlite", "postgresql")


@contextmanager
def empty(folder: Path, server: Any) -> Iterator[str]:
    """The address of a fresh database: of a PostgreSQL `server`, or without one an SQLite file in `folder`."""
    if server is None:
        yield sqlite(folder)
        return
    with server.database() as address:
        yield address


@cache
def _sqlite_template() -> bytes:
    """An SQLite file with the schema and no rows."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "hub.sqlite"
        url = f"sqlite:///{file}"
        engine = open_engine(url)
        migrate(engine, url)
        engine.dispose()  # the last connection to close moves the write-ahead log into the file
        return file.read_bytes()


def sqlite(folder: Path) -> str:
    """The address of a fresh SQLite database in `folder`, with the schema and no rows."""
    file = folder / "hub.sqlite"
    file.write_bytes(_sqlite_template())
    return f"sqlite:///{file}"


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


# -- fixtures of test modules ------------------------------------------------------------------------


def filled_once(fill: Callable[[Database], None], of: str = "") -> Any:
    """A fixture: the address of a database that `fill` has written to, once for each module and kind of database.

    It begins empty, or as a copy of the one of fixture `of`.
    """

    @pytest.fixture(scope="module")
    def made(request: pytest.FixtureRequest, server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        folder = tmp_path_factory.mktemp("filled")
        with copied(request.getfixturevalue(of), folder, server) if of else empty(folder, server) as url:
            yield filled(url, fill)

    return made


def copy_of(name: str) -> Any:
    """A fixture: an open copy, for each test, of the database that fixture `name` has filled."""

    @pytest.fixture
    def opened(request: pytest.FixtureRequest, server: Any, tmp_path: Path) -> Iterator[Database]:
        with copied(request.getfixturevalue(name), tmp_path, server) as url:
            db = Database(url)
            yield db
            db.close()

    return opened
