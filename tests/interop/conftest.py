"""A real mosquitto and a real hub that is a Sparkplug host application, for live sessions with others' libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.brokers import mosquitto
from together.conftest import World

HUB = """
[sparkplug]
host_id = "tidegate"
servers = [{{ address = "127.0.0.1:{port}" }}]
[[sparkplug.writable]]
device = "plant-press-hydraulics"
metric = "setpoint"
low = 0.0
high = 250.0
verify_s = 10.0
[[sparkplug.writable]]
device = "plant-mill-drive"
metric = "setpoint"
low = 0.0
high = 250.0
verify_s = 10.0
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The hub as host application `tidegate`; it may write two metrics."""
    folder: Path = tmp_path_factory.mktemp("hub")
    broker = mosquitto(folder / "broker")
    broker.start()
    world = World(folder, broker, settings=HUB.format(port=broker.port))
    try:
        world.start_hub()
        yield world
    finally:
        world.close()
