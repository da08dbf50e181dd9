"""One REST world for each module and kind of database."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from simulators import databases
from simulators.rest_world import World, open_world

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")


@pytest.fixture(scope="module")
def world(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rest")
    with databases.empty(folder, server) as url, open_world(folder, url) as one:
        yield one
