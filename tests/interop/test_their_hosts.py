"""A host application of pysparkplug, live, with an agent as its edge node."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from simulators.brokers import mosquitto, until
from simulators.interop import Driver, pysparkplug_host
from simulators.relay import Relay
from together.conftest import World

from cloud_hub.demo.peer import Line

EDGE = """
[sparkplug]
group = "plant"
servers = [{{ address = "127.0.0.1:{port}", protocol = "{protocol}" }}]
primary_host = "{primary_host}"
publish_s = 0.2
[[sparkplug.devices]]
id = "host"
metrics = ["cpu.*"]
[[sparkplug.writable]]
metric = "settings.period_s"
low = 0.1
high = 5.0
"""
SETTING, OUTCOME = "Settings/period_s", "Writes/settings.period_s"
WAIT_S = 60.0


class Plant:
    """A broker, an agent that is the edge node `line-1`, and pysparkplug as the SCADA's host application."""

    def __init__(self, world: World, host: Driver) -> None:
        self.world, self.host = world, host

    def start(self, primary_host: str = "", protocol: str = "3.1.1", port: int = 0) -> None:
        """Start the agent, which needs no hub for this; `port` is its way to the plant's broker."""
        more = EDGE.format(port=port or self.world.broker.port, primary_host=primary_host, protocol=protocol)
        self.world.start_edge("line-1", more)

    def accepted(self) -> int:
        """Samples that the agent has taken so far."""
        return int(self.world.accepted("line-1")["streams"]["telemetry"]["accepted"])

    def birth(self) -> Line:
        """The next birth of the node."""
        return self.host.wait_for("NBIRTH", WAIT_S, node="line-1")

    def data(self, metric: str, wanted: Any = None, device: str = "") -> Line:
        """The next DATA message with this metric, and this value if one is given."""

        def found(line: Line) -> bool:
            if line.get("event") != ("DDATA" if device else "NDATA") or metric not in line["metrics"]:
                return False
            return wanted is None or line["metrics"][metric] == wanted

        return self.host.wait_until(f"DATA with {metric} {wanted or ''}", found, WAIT_S)

    def outcome(self, state: str) -> str:
        """The next outcome of a write in this state."""

        def found(line: Line) -> bool:
            return line.get("event") == "NDATA" and str(line["metrics"].get(OUTCOME) or "").startswith(state)

        return str(self.host.wait_until(f"{OUTCOME}: {state}", found, WAIT_S)["metrics"][OUTCOME])

    def write(self, value: float) -> None:
        self.host.send(do="write", group="plant", node="line-1", metric=SETTING, type="DOUBLE", value=value)

    def switch(self, *arguments: str) -> None:
        """`tidegate-edge write ...` on the device."""
        command = [World.program("tidegate-edge"), "write", *arguments]
        command += ["--config", str(self.world.folder / "line-1.toml")]
        made = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert made.returncode == 0, made.stderr.decode()


@pytest.fixture
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    broker = mosquitto(folder / "broker")
    broker.start()
    world = World(folder, broker)
    try:
        with pysparkplug_host(broker.port) as host:
            yield Plant(world, host)
    finally:
        world.close()


@pytest.mark.parametrize("protocol", ["3.1.1", pytest.param("5", marks=pytest.mark.nightly)])
def test_births_and_data_are_read_and_the_death_belongs_to_its_birth(plant: Plant, protocol: str) -> None:
    plant.start(protocol=protocol)
    birth = plant.birth()
    assert birth["seq"] == 0
    assert birth["metrics"]["Node Control/Rebirth"] is False
    assert birth["types"]["bdSeq"] == "INT64"
    assert birth["metrics"]["Properties/Tidegate Device"] == "line-1"
    device = plant.host.wait_for("DBIRTH", WAIT_S, node="line-1", device="host")
    assert device["types"]["cpu.load"] == "DOUBLE"
    assert isinstance(plant.data("cpu.load", device="host")["metrics"]["cpu.load"], float)
    plant.world.end("line-1", signal.SIGTERM)
    death = plant.host.wait_for("NDEATH", WAIT_S, node="line-1")
    assert death["metrics"] == {"bdSeq": birth["metrics"]["bdSeq"]}


def test_a_killed_agent_is_reported_dead_and_its_next_birth_has_the_next_number(plant: Plant) -> None:
    plant.start()
    first = plant.birth()["metrics"]["bdSeq"]
    plant.world.kill("line-1")
    assert plant.host.wait_for("NDEATH", WAIT_S)["metrics"] == {"bdSeq": first}
    plant.world.resume_edge("line-1")
    assert plant.birth()["metrics"]["bdSeq"] == (first + 1) % 256


def test_a_rebirth_that_the_host_asks_for_has_the_same_number_and_all_devices(plant: Plant) -> None:
    plant.start()
    first = plant.birth()
    plant.host.wait_for("DBIRTH", WAIT_S)
    plant.data("cpu.load", device="host")
    plant.host.send(do="rebirth", group="plant", node="line-1")
    second = plant.birth()
    assert second["seq"] == 0
    assert second["metrics"]["bdSeq"] == first["metrics"]["bdSeq"]
    assert plant.host.wait_for("DBIRTH", WAIT_S, device="host")["seq"] == 1


def test_a_write_is_refused_until_it_is_enabled_on_the_device(plant: Plant) -> None:
    plant.start()
    plant.birth()
    plant.write(0.5)
    assert "not enabled" in plant.outcome("refused")
    plant.switch("enable", "settings.period_s", "--for", "1h")
    plant.write(0.5)
    plant.outcome("verified")
    assert any(line.get("metrics", {}).get(SETTING) == 0.5 for line in plant.host.seen)


def test_a_write_beyond_its_bounds_is_refused_although_it_is_enabled(plant: Plant) -> None:
    plant.start()
    plant.birth()
    plant.switch("enable", "settings.period_s", "--for", "1h")
    plant.write(6.0)
    assert "5" in plant.outcome("refused")


def test_the_node_waits_for_its_primary_host(plant: Plant) -> None:
    plant.start(primary_host="primary")
    until("the agent is at the broker", lambda: plant.world.logged("line-1", "sparkplug.up"))
    with pysparkplug_host(plant.world.broker.port, "primary"):
        first = plant.host.wait_until(
            "STATE or a birth", lambda line: line["event"] == "NBIRTH" or line.get("host") == "primary", WAIT_S
        )
        assert (first["event"], first.get("online")) == ("STATE", True)
        plant.birth()


def test_samples_of_an_outage_are_sent_as_historical(plant: Plant) -> None:
    """The agent alone loses its way to the broker: the host sees its death, then its birth, then what it missed."""
    relay = Relay(plant.world.broker.port).start()
    try:
        plant.start(port=relay.port)
        plant.birth()
        plant.data("cpu.load", device="host")
        relay.refusing = True
        relay.cut()
        plant.host.wait_for("NDEATH", WAIT_S, node="line-1")
        before = plant.accepted()
        until("samples are taken during the outage", lambda: plant.accepted() > before + 10)
        relay.well()
        plant.birth()
        plant.host.wait_until(
            "historical data", lambda line: line.get("event") == "DDATA" and line["historical"] > 0, WAIT_S
        )
    finally:
        relay.stop()
