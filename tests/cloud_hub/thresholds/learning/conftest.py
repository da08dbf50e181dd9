"""A plant whose history is stored once for each module and kind of database; each test gets a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators import databases, refits

from cloud_hub.database.sessions import Database


@pytest.fixture(scope="module")
def history(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with databases.empty(tmp_path_factory.mktemp("history"), server) as url:
        yield databases.filled(url, refits.plant)


@pytest.fixture(scope="module")
def first_fit(server: Any, history: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    def fit(db: Database) -> None:
        refits.learn(db)
        refits.fitted(db)

    with databases.copied(history, tmp_path_factory.mktemp("fitted"), server) as url:
        yield databases.filled(url, fit)


@pytest.fixture
def plant(server: Any, history: str, tmp_path: Path) -> Iterator[Database]:
    """Four devices with six days of history."""
    with databases.copied(history, tmp_path, server) as url:
        db = Database(url)
        yield db
        db.close()


@pytest.fixture
def fitted_plant(server: Any, first_fit: str, tmp_path: Path) -> Iterator[Database]:
    """The four devices with limits fitted by `refits.TERMS`, whose rollout has not begun."""
    with databases.copied(first_fit, tmp_path, server) as url:
        db = Database(url)
        yield db
        db.close()
