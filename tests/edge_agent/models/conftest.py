"""A bundle and an inference process for tests of models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.model_bundles import DIGITS, Bench


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the committed bundle, to be spoilt."""
    return Path(shutil.copytree(DIGITS, tmp_path / "bundle"))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(DIGITS)
    made.stream.start()
    made.running()
    yield made
    made.stop()
