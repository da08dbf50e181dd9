"""The link over a bad network: a relay between a real agent and a real broker, behind it a real hub.

What was accepted arrives once and in order whatever the network does, and a half-dead connection is left.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from simulators.brokers import until
from simulators.relay import FAULTS, Relay, storm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"
QUICK = "heartbeat_s = 4.0"


@pytest.fixture
def relay() -> Iterator[Callable[[int], Relay]]:
    made: list[Relay] = []

    def make(target: int) -> Relay:
        made.append(Relay(target).start())
        return made[-1]

    yield make
    for one in made:
        one.stop()


def telemetry(world: Any) -> int:
    rows = world.get(f"/devices/{DEVICE}/streams") or []
    return max((row["upto"] for row in rows if row["stream"] == "telemetry"), default=0)


def flows(world: Any, more: int = 10) -> None:
    before = telemetry(world)
    until("telemetry flows", lambda: telemetry(world) >= before + more, 60)


def half_dead(world: Any) -> list[Any]:
    return [line for line in world.logged(DEVICE, "link.down") if "half-dead" in line["reason"]]


def begin(build: Any, relay: Any) -> tuple[Any, Relay]:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    network = relay(world.broker.port)
    world.start_edge(DEVICE, port=network.port, link=QUICK)
    flows(world)
    return world, network


def whole(world: Any) -> None:
    """All that was accepted is there once and in order; the hub found nothing odd."""
    held = world.all_arrived(DEVICE)
    epoch = world.accepted(DEVICE)["epoch"]
    assert held["telemetry"]["upto"] > 0
    assert not world.logged("hub", "loop.failed")
    assert not world.logged("hub", "ingest.refused")
    world.end(DEVICE)
    world.end("hub")
    for stream, (rows, distinct, upto) in world.stored(DEVICE, epoch).items():
        if stream != "alarm":
            assert rows == distinct == upto, stream


@pytest.mark.parametrize("way", ["up", pytest.param("down", marks=pytest.mark.nightly)])
def test_a_link_that_swallows_messages_one_way_is_made_anew(build: Any, relay: Any, way: str) -> None:
    world, network = begin(build, relay)
    before = network.connections
    network.mute.add(way)
    until("the agent leaves the half-dead link", lambda: half_dead(world), 30)
    assert network.swallowed > 0, "the connection was in best health and carried nothing"
    network.mute.clear()
    flows(world)
    assert network.connections > before
    whole(world)


def test_a_frozen_hub_is_noticed_and_left_alone_ever_more_seldom(build: Any, relay: Any) -> None:
    """TCP and the broker are alive and acknowledge everything; nobody is behind them."""
    world, _ = begin(build, relay)
    world.processes["hub"].send_signal(signal.SIGSTOP)
    try:
        until("the agent notices", lambda: half_dead(world), 30)
        until("and tries on another connection", lambda: len(half_dead(world)) >= 2, 30)
    finally:
        world.processes["hub"].send_signal(signal.SIGCONT)
    until("the device is online", lambda: world.online(DEVICE), 60)
    flows(world)
    whole(world)


@pytest.mark.parametrize("seed", [7])
def test_a_seeded_storm_loses_and_doubles_nothing(build: Any, relay: Any, seed: int) -> None:
    world, network = begin(build, relay)
    done = storm(network, random.Random(seed), 8, time.sleep)
    assert set(done) == set(FAULTS)
    flows(world)
    whole(world)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(8))
def test_long_storms_lose_and_double_nothing(build: Any, relay: Any, seed: int) -> None:
    world, network = begin(build, relay)
    storm(network, random.Random(1000 + seed), 60, time.sleep)
    flows(world)
    whole(world)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_each_fault_for_a_long_time(build: Any, relay: Any, fault: str) -> None:
    world, network = begin(build, relay)
    FAULTS[fault](network)
    time.sleep(45)
    network.well()
    flows(world)
    whole(world)


VICTIMS = ("hub", DEVICE, "broker")
MOMENTS = ("at-birth", "flowing", "during-a-stall", "while-another-restarts")


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_who_is_killed_when(build: Any, relay: Any, victim: str, moment: str) -> None:
    world, network = begin(build, relay)
    killed(world, network, victim, moment)
    flows(world, 20)
    whole(world)


@pytest.mark.parametrize(("victim", "moment"), [("hub", "during-a-stall"), ("broker", "at-birth")])
def test_a_few_of_that_matrix(build: Any, relay: Any, victim: str, moment: str) -> None:
    world, network = begin(build, relay)
    killed(world, network, victim, moment)
    flows(world, 20)
    whole(world)


def killed(world: Any, network: Relay, victim: str, moment: str) -> None:
    """Kill -9 at that moment and start again; promises of the device are compared by `whole`."""
    if moment == "at-birth":
        connections = network.connections
        network.cut()
        until("the agent connects again", lambda: network.connections > connections, 30)
    elif moment == "during-a-stall":
        network.stall()
        time.sleep(1.0)
    elif moment == "while-another-restarts":
        other = VICTIMS[(VICTIMS.index(victim) + 1) % 3]
        world.kill(other)
        world.kill(victim)
        network.well()
        world.restart(other)
        world.restart(victim)
        return
    world.kill(victim)
    time.sleep(0.5)
    network.well()
    world.restart(victim)
