"""An outbox and the batches that come out of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.outbox_world import ROOMY

from edge_agent.store.outbox import Outbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    opened = Outbox(path, ROOMY, "e1")
    yield opened
    opened.close()
