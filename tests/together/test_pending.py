"""After a reconnect all that is pending comes once, without being asked: counted on the broker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from simulators.brokers import until
from simulators.relay import Relay

from shared.protocol import topics
from shared.transport.mqtt import Connection, Inbound, Options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"


@contextmanager
def counting(port: int) -> Iterator[list[tuple[str, Any]]]:
    """(rest of the topic, payload) of everything that the device and the hub say to each other."""
    heard: list[tuple[str, Any]] = []
    up: list[bool] = []
    observer = Connection(
        Options(client_id="observer", filters=[topics.thing(DEVICE, "#")]), lambda: ("127.0.0.1", port),
        on_message=lambda inbound: heard.append(_read(inbound)),
        on_up=lambda: up.append(True), on_down=lambda _: None,
    )  # fmt: skip
    observer.start()
    until("the observer listens", lambda: up)
    yield heard
    observer.stop()


def _read(inbound: Inbound) -> tuple[str, Any]:
    """Words and births are JSON; telemetry may be deflated, and is nothing that is counted here."""
    _, rest = topics.split(inbound.topic) or ("", "")
    return rest, json.loads(inbound.payload) if rest in {"applied", "birth"} and inbound.payload else {}


@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.nightly), 3])
def test_all_that_is_pending_is_fetched_once_and_without_being_asked(build: Callable[..., Any], times: int) -> None:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    network = Relay(world.broker.port).start()
    try:
        world.start_edge(DEVICE, port=network.port)
        until("the device is online", lambda: world.online(DEVICE))
        until("it has reported", lambda: world.reported(DEVICE).get("settings"))
        for turn in range(times):
            _once(world, network, 2.0 + turn)
    finally:
        network.stop()


def _once(world: Any, network: Relay, period_s: float) -> None:
    network.refusing = True
    network.cut()
    until("it is away", lambda: not world.online(DEVICE))
    wanted = {"metric": "cpu.load", "high": 90.0 + period_s, "priority": "low"}
    world.http.patch(f"/devices/{DEVICE}/twin", json={"desired": {"settings": {"period_s": period_s}}})
    world.http.patch(f"/devices/{DEVICE}/twin/name/thresholds", json={"desired": {"limits": [wanted]}})
    look = {"verb": "diagnose", "target": "processes", "mode": "queued"}
    ids = [world.http.post(f"/devices/{DEVICE}/commands", json=look).json()["id"] for _ in range(3)]
    with counting(world.broker.port) as heard:
        heard.clear()  # the retained birth
        network.well()
        until("the settings are in force", lambda: world.reported(DEVICE)["settings"]["period_s"] == period_s, 60)
        until("both changes are told to be in force", lambda: len(told(heard)) >= 2, 60)
        until(
            "the commands have ended",
            lambda: all(world.get(f"/commands/{cid}")["state"] == "succeeded" for cid in ids), 60,
        )  # fmt: skip
        world.all_arrived(DEVICE)
    said = Counter(rest for rest, _ in heard)
    births = [payload for rest, payload in heard if rest == "birth" and payload["state"] == "online"]
    assert len({birth["session"] for birth in births}) == 1, "one connection"
    gets = {rest: count for rest, count in said.items() if rest.endswith("/get")}
    assert gets == {"shadow/get": 1, "shadow/name/thresholds/get": 1}, "each document once"
    assert [said[f"commands/{cid}/request"] for cid in ids] == [1, 1, 1], "each command once"
    assert len(told(heard)) == 2, "each change once in force"


def told(heard: list[tuple[str, Any]]) -> list[Any]:
    """Words of the device that something is in force."""
    return [payload for rest, payload in heard if rest == "applied" and payload["state"] in {"applied", "verified"}]
