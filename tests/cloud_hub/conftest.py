"""A real database for each test, SQLite and PostgreSQL in turn.

On PostgreSQL the fast suite runs each test with its first parameters only, and those marked `one_database` not at all;
`make nightly` runs all of them on both. What is about SQL that the two do differently is marked `sql`, and runs with
all parameters on both in the fast suite too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators import databases
from sqlmodel import SQLModel

from cloud_hub.database.sessions import Database


@pytest.hookimpl(tryfirst=True)  # before -m is judged
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test on PostgreSQL, all parameter sets but the first are for the nightly run; of some, that one too."""
    seen: set[tuple[Any, ...]] = set()
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if parameters.get("server") != "postgresql" or item.get_closest_marker("sql"):
            continue
        test = (item.path, item.name.partition("[")[0])
        if test in seen or item.get_closest_marker("one_database"):
            item.add_marker(pytest.mark.nightly)
        seen.add(test)


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
def forget_compiled_statements() -> Iterator[None]:
    """SQLAlchemy keeps what each mapper has compiled for each engine that there was: hundreds of megabytes."""
    yield
    for mapper in SQLModel._sa_registry.mappers:
        mapper._compiled_cache.clear()


@pytest.fixture(autouse=True)
def quiet_alembic() -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
