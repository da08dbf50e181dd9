"""Edge nodes of pysparkplug and npm sparkplug-client, live, with the hub as their host application."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from simulators.brokers import until
from simulators.interop import Driver, pysparkplug_node, sparkplug_client_node
from together.conftest import World

LIBRARIES: dict[str, tuple[str, str, Callable[..., AbstractContextManager[Driver]]]] = {
    "pysparkplug": ("press", "hydraulics", pysparkplug_node),
    "sparkplug-client": ("mill", "drive", sparkplug_client_node),
}


class Node:
    """A running node, and what the hub shows of it."""

    def __init__(self, hub: World, library: str, driver: Driver) -> None:
        self.hub, self.library, self.driver = hub, library, driver
        name, device, _ = LIBRARIES[library]
        self.node, self.device = f"plant-{name}", f"plant-{name}-{device}"

    def last(self, metric: str) -> Any:
        """The newest value of a metric of the device."""
        rows = self.hub.get(f"/devices/{self.device}/telemetry") or []
        found = next((row for row in rows if row["metric"] == metric), {})
        return found.get("value") if found.get("text") is None else found["text"]

    def wait_for(self, metric: str, value: Any) -> None:
        until(f"{metric} of {self.device} is {value}", lambda: self.last(metric) == value)

    def state(self, device: str) -> str:
        return str((self.hub.get(f"/devices/{device}") or {}).get("state", ""))

    def wait_until(self, device: str, state: str) -> None:
        until(f"{device} is {state}", lambda: self.state(device) == state)


@pytest.fixture(scope="module", params=list(LIBRARIES))
def node(request: pytest.FixtureRequest, hub: World) -> Iterator[Node]:
    name, device, start = LIBRARIES[request.param]
    with start(hub.broker.port, "plant", name, device) as driver:
        found = Node(hub, request.param, driver)
        found.wait_until(found.device, "online")
        yield found


def test_a_node_and_its_device_are_devices_of_the_fleet(node: Node) -> None:
    node.wait_until(node.node, "online")
    assert node.hub.get(f"/devices/{node.device}")["profile"] == "sparkplug"


def test_values_of_the_birth_are_telemetry(node: Node) -> None:
    node.wait_for("pressure", 110.0)
    node.wait_for("running", 1.0)
    node.wait_for("offset", -5.0)
    if node.library == "sparkplug-client":  # its UInt32 is in the wrong field; the other has none
        node.wait_for("count", 4_000_000_000.0)


def test_data_are_telemetry(node: Node) -> None:
    node.driver.send(do="data", metric="pressure", value=112.5)
    node.wait_for("pressure", 112.5)


def test_a_declared_metric_is_written_and_verified_by_what_the_node_reports(node: Node) -> None:
    answer = node.hub.http.post(
        "/sparkplug/writes", json={"device": node.device, "metric": "setpoint", "value": 95.5, "reason": "test"}
    )
    assert answer.status_code in {200, 201, 202}, answer.text
    assert node.driver.wait_for("dcmd", metric="setpoint")["value"] == 95.5
    node.wait_for("setpoint", 95.5)
    path = f"/sparkplug/writes/{answer.json()['id']}"
    until("the write is verified", lambda: (node.hub.get(path) or {}).get("state") == "verified")


def test_a_metric_that_is_not_declared_is_not_written(node: Node) -> None:
    body = {"device": node.device, "metric": "pressure", "value": 1.0, "reason": "test"}
    answer = node.hub.http.post("/sparkplug/writes", json=body)
    assert answer.status_code >= 400 or answer.json()["state"] == "refused", answer.text
    assert "writable" in answer.text


def test_a_device_that_dies_is_offline_while_its_node_lives(node: Node) -> None:
    node.driver.send(do="death" if node.library == "sparkplug-client" else "deregister")
    node.wait_until(node.device, "offline")
    assert node.state(node.node) == "online"


@pytest.fixture(params=list(LIBRARIES))
def fresh(request: pytest.FixtureRequest, hub: World) -> Iterator[Node]:
    """A node of its own name, for a test that ends it."""
    _, _, start = LIBRARIES[request.param]
    name = f"{request.param}-{request.node.originalname}"[:40].replace("_", "-").rstrip("-")
    with start(hub.broker.port, "other", name, "drive") as driver:
        found = Node(hub, request.param, driver)
        found.node, found.device = f"other-{name}", f"other-{name}-drive"
        found.wait_for("pressure", 110.0)
        yield found


def test_a_killed_node_and_its_device_are_offline(fresh: Node) -> None:
    """Both libraries have a Will of QoS 0, where the specification wants 1."""
    fresh.driver.kill()
    fresh.wait_until(fresh.node, "offline")
    fresh.wait_until(fresh.device, "offline")
    rows = fresh.hub.get(f"/sparkplug/nodes/{fresh.device}/metrics", values=True)
    assert {row["metric"]: (row["value"], row["stale"]) for row in rows}["pressure"] == (110.0, True)


def test_a_rebirth_that_the_hub_asks_for_reaches_the_node(fresh: Node) -> None:
    """sparkplug-client leaves the answer to its user; pysparkplug does not declare the metric, and does not answer."""
    answer = fresh.hub.http.post(f"/sparkplug/nodes/{fresh.node}/rebirth")
    assert (answer.status_code, answer.json()["requested"]) == (202, True), answer.text
    fresh.driver.wait_for("ncmd", metric="Node Control/Rebirth", value=True)


def test_a_death_with_the_number_of_another_birth_is_ignored(hub: World) -> None:
    """pysparkplug counts bdSeq on before it says goodbye: the hub cannot take that for the death of this birth."""
    with pysparkplug_node(hub.broker.port, "other", "leaving", "drive") as driver:
        found = Node(hub, "pysparkplug", driver)
        found.node, found.device = "other-leaving", "other-leaving-drive"
        found.wait_for("pressure", 110.0)
    with pysparkplug_node(hub.broker.port, "other", "after", "drive"):  # what it sends comes after the goodbye
        Node(hub, "pysparkplug", driver).wait_until("other-after-drive", "online")
    assert found.state(found.node) == "online"
