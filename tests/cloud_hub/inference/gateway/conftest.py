"""Fixtures of the gateway's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from simulators.gateways import MakeHub
from simulators.openai_server import OpenAIServer
from simulators.rest import RestHub, rest_hub
from sqlalchemy import delete

from cloud_hub.database.tables import InferenceRecord, InferenceTask, InferenceUsage
from cloud_hub.settings.inference import Inference


@pytest.fixture
def engine() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestHub]:
    with rest_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def make_hub(hub: RestHub) -> MakeHub:
    """Gives the hub of the module another gateway; nothing is used or recorded yet."""

    def make(*pools: dict[str, Any], **inference: Any) -> RestHub:
        hub.replace_gateway(Inference.model_validate({"pools": list(pools), **inference}))
        return hub

    with hub.db.write() as session:
        for table in (InferenceUsage, InferenceRecord, InferenceTask):
            session.connection().execute(delete(table))
    return make
