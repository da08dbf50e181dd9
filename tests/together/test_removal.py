"""A removed device stays removed over restarts of hub and broker, and comes back only by the act that restores it."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from simulators.brokers import until

from shared.protocol import topics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE, OTHER = "press-3", "press-4"


def retained(world: Any) -> bytes | None:
    """The birth that the broker keeps of the device, as a client sees it that subscribes now."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    seen: list[tuple[str, bytes]] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _client, _data, message: seen.append((message.topic, bytes(message.payload)))
    client.on_connect = lambda client, *_: client.subscribe(topics.thing("+", "birth"), 1)
    client.connect("127.0.0.1", world.broker.port)
    client.loop_start()
    until("the other's birth is kept", lambda: any(f"/{OTHER}/" in topic for topic, _ in seen))
    client.loop_stop()
    client.disconnect()
    return next((payload for topic, payload in seen if f"/{DEVICE}/" in topic and payload), None)


def known(world: Any) -> set[str]:
    return {row["id"] for row in world.get("/devices")}


def removed(world: Any) -> list[str]:
    return [row["device"] for row in world.get("/removed-devices")]


def gone(world: Any, when: str) -> None:
    until(f"the other is online {when}", lambda: world.online(OTHER))
    until(f"the broker keeps nothing of it {when}", lambda: retained(world) is None)
    assert (known(world), removed(world)) == ({OTHER}, [DEVICE]), when


def test_a_removed_device_is_gone_for_good_until_it_is_restored(build: Any) -> None:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    for device in (DEVICE, OTHER):
        world.start_edge(device)
    until("both are online", lambda: world.online(DEVICE) and world.online(OTHER))
    assert retained(world) is not None
    world.end(DEVICE, signal.SIGKILL)  # its Will is published while it is removed
    assert world.http.delete(f"/devices/{DEVICE}", params={"reason": "scrapped"}).status_code == 204
    gone(world, "after its removal")
    world.kill("hub")
    world.restart("hub")
    gone(world, "after a restart of the hub")
    world.broker.stop()
    world.broker.start()
    gone(world, "after a restart of the broker")
    world.resume_edge(DEVICE)
    until("it is told that it was removed", lambda: any(
        "was removed" in line["reason"] for line in world.logged(DEVICE, "link.refused")
    ))  # fmt: skip
    world.end("hub")
    world.start_hub()
    until("the hub refuses it anew", lambda: len(world.logged("hub", "device.removed")) > 0)
    assert known(world) == {OTHER}
    assert world.http.put(f"/devices/{DEVICE}").status_code == 409
    assert world.http.post(f"/removed-devices/{DEVICE}/restore").status_code == 200
    until("it is back", lambda: world.online(DEVICE))
    assert removed(world) == []
