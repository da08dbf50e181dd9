"""A real database for each test, SQLite and PostgreSQL in turn, and a virtual clock's first instant."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators import databases

from cloud_hub.database.sessions import Database


@pytest.fixture(scope="module", params=databases.KINDS)
def server(request: pytest.FixtureRequest) -> Any:
    """The PostgreSQL server, or None for SQLite: all tests of a module with one kind, then with the other."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_server")


@pytest.fixture
def url(server: Any, tmp_path: Path) -> Iterator[str]:
    """The address of a fresh database of either kind."""
    with databases.empty(tmp_path, server) as one:
        yield one


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


@pytest.fixture(autouse=True)
def quiet_alembic() -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
