"""A database with simulated actions, and a playbook to run on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.playbook_world import PlaybookWorld

from cloud_hub.database.sessions import Database


@pytest.fixture
def world(db: Database, tmp_path: Path) -> Iterator[PlaybookWorld]:
    one = PlaybookWorld(db, tmp_path / "world.sqlite")
    yield one
    one.close()
