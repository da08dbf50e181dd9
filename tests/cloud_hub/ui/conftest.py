"""One plant with its pages for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from simulators.pages_world import Pages, fill, open_pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with open_pages(tmp_path_factory.mktemp("pages")) as one:
        fill(one)
        yield one
