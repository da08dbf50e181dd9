"""A broker that restarts under a fleet of Sparkplug nodes: all are born again, nothing sent is lost, nothing loops."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator

import pytest
from simulators.brokers import until
from simulators.sparkplug_nodes import Fleet, now_ms
from together.conftest import World

NODES, METRICS = 40, 20
STORED = "SELECT count(*) FROM (SELECT DISTINCT device, metric, value FROM telemetry WHERE metric LIKE 'metric/%')"
BORN = "SELECT count(*) FROM sparkplug_nodes WHERE state = 'online' AND \"group\" = ? AND born_us > ?"


class Storm:
    """A fleet on the hub's broker, and the hub's database."""

    def __init__(self, hub: World, group: str, primary_host: str) -> None:
        self.hub, self.group = hub, group
        self.fleet = Fleet(hub.broker.port, nodes=NODES, metrics=METRICS, group=group, primary_host=primary_host)
        self._db = sqlite3.connect(
            f"file:{hub.folder / 'hub' / 'hub.sqlite'}?mode=ro", uri=True, check_same_thread=False
        )

    def born_since(self, t_us: int) -> int:
        return int(self._db.execute(BORN, (self.group, t_us)).fetchone()[0])

    def stored(self) -> int:
        return int(self._db.execute(STORED).fetchone()[0])

    def sent(self) -> int:
        """Different values sent so far: each metric counts upwards from its node's number."""
        return sum(int(value - first) + 1 for first, node in enumerate(self.fleet.nodes) for value in node.values)

    async def wait(self, what: str, seen: Callable[[], bool]) -> None:
        await asyncio.to_thread(until, what, seen)

    def close(self) -> None:
        self._db.close()


@pytest.fixture
def storm(hub: World) -> Iterator[Storm]:
    made = Storm(hub, "storm", "tidegate")
    yield made
    made.close()


def test_a_broker_restart_loses_nothing_and_ends_in_no_loop_of_rebirths(storm: Storm) -> None:
    """A broker with persistence still has the host's old STATE: nodes that are back before the host are asked again."""

    async def play() -> None:
        fleet = storm.fleet
        await fleet.start()
        await fleet.send(5)
        await storm.wait("all values are stored", lambda: storm.stored() == storm.sent())
        await asyncio.to_thread(storm.hub.broker.kill)
        await storm.wait("all connections are lost", lambda: fleet.total("lost") >= NODES)
        killed_us = now_ms() * 1000
        await asyncio.to_thread(storm.hub.broker.start)
        await storm.wait("all nodes are born again", lambda: storm.born_since(killed_us) == NODES)
        await fleet.send(5)
        await storm.wait("all values are stored", lambda: storm.stored() == storm.sent())
        assert fleet.total("births") <= fleet.total("connections") + fleet.total("rebirths")
        assert fleet.total("rebirths") <= NODES
        fleet.close()

    asyncio.run(play())
