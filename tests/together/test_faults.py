"""Power cuts, hostile clients, twins that should not be, broken models: what was accepted arrives, and once."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import MOSQUITTO_FIRST, Kind, until

from shared.protocol import topics
from shared.protocol.codec import MAX_PAYLOAD, encode
from shared.protocol.messages import Batch, Birth
from shared.transport.mqtt import Connection, Options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"


def telemetry(world: Any) -> int:
    """Up to where the hub holds the device's telemetry, over all epochs."""
    rows = world.get(f"/devices/{DEVICE}/streams", count=True) or []
    return max((row["upto"] for row in rows if row["stream"] == "telemetry"), default=0)


def flows(world: Any, more: int = 20) -> None:
    """Wait until so many more samples have reached the hub."""
    before = telemetry(world)
    until("telemetry flows", lambda: telemetry(world) >= before + more, 45)


@pytest.mark.parametrize("kind", MOSQUITTO_FIRST)
@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_killed_at_random_moments_nothing_accepted_is_lost_or_doubled(build: Any, kind: Kind, rounds: int) -> None:
    world, rng = build(kind), random.Random(7)
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE, world.camera())
    promised: dict[str, int] = {}
    for _ in range(rounds):
        for victim in rng.sample(["hub", DEVICE, "broker"], 3):
            flows(world, rng.randrange(1, 60))
            world.kill(victim)
            status = world.accepted(DEVICE)  # a promise of the device: it must be kept, whatever was killed
            for stream, row in status["streams"].items():
                assert row["accepted"] >= promised.get(stream, 0)
                promised[stream] = row["accepted"]
            world.restart(victim)
    flows(world)
    held = world.all_arrived(DEVICE)
    assert {stream: row["upto"] >= promised[stream] for stream, row in held.items()} == dict.fromkeys(promised, True)
    assert world.reported(DEVICE)["agent"]["boot"] == 1 + rounds
    assert world.get("/audit", verify=True)["broken_at"] is None
    assert not world.logged("hub", "loop.failed")
    assert not world.logged("hub", "ingest.refused")
    epoch = world.accepted(DEVICE)["epoch"]
    world.end(DEVICE)
    world.end("hub")
    for stream, (rows, distinct, upto) in world.stored(DEVICE, epoch).items():
        if stream != "alarm":  # two alarms, raised and cleared, are one row; there are none here
            assert rows == distinct == upto >= promised[stream], stream


HOSTILE: list[tuple[str, bytes]] = [
    ("telemetry", b"\xff\xfe\x00"),
    ("telemetry", b"[" * 200_000),
    ("telemetry", b" " * (MAX_PAYLOAD + 1)),
    ("telemetry", b'{"epoch": "x", "first": 1, "items": [{"metric": "a", "t_us": 1, "value": NaN}]}'),
    ("telemetry", b'{"epoch": "x", "first": 1, "items": [null, {"metric": "a", "t_us": 1, "value": 1}]}'),
    ("escalations", b'{"epoch": "x", "first": 1, "items": [{"shape": [99999999999999999999999, 0]}]}'),
    ("alarms", b'{"epoch": "x", "first": 99999999999999999999999999, "items": [1]}'),
    ("birth", b""),
    ("birth", b'{"device": "another", "session": "s"}'),
    ("birth", b'{"device": "intruder", "session": "s", "acked": {"telemetry": 999999999999999999999999999999}}'),
    ("birth", b'{"device": "intruder", "session": "s", "protocol": 99999999999999999999999999999999}'),
    ("applied", b'{"shadow": "", "version": 99999999999999999999999, "path": "a", "state": "verified"}'),
    ("commands/x/response", b'{"id": "y", "state": "succeeded", "t_us": 1}'),
    ("shadow/update", b'{"state": {"desired": ' + b'{"a":' * 5000),
    ("shadow/update", b'{"state": {"reported": {"a": "\\ud800"}}}'),
    ("shadow/name/ä/get", b"{}"),
    ("shadow/get", b"\x00"),
]


@pytest.mark.parametrize("kind", MOSQUITTO_FIRST)
def test_a_hostile_client_leaves_the_hub_working(build: Any, kind: Kind) -> None:
    world = build(kind)
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    until("the device is online", lambda: world.online(DEVICE))
    up = threading.Event()
    intruder = Connection(
        Options(client_id="intruder", filters=["intruder"]), lambda: ("127.0.0.1", world.broker.port),
        on_message=lambda _: None, on_up=up.set, on_down=lambda _: None,
    )  # fmt: skip
    intruder.start()
    try:
        assert up.wait(20)
        for _ in range(2):
            for rest, payload in HOSTILE:
                assert intruder.publish(topics.thing("intruder", rest), payload)
            assert intruder.publish(topics.thing("intruder", "birth"), encode(Birth(device="intruder", session="s")))
        good = encode(Batch(epoch="y", first=1, items=[{"metric": "a", "t_us": 1, "value": 1}]))

        def stored() -> Any:
            """Sent until it is acknowledged, as every device does: the dear messages before it are paid for first."""
            intruder.publish(topics.thing("intruder", "telemetry"), good)
            return world.streams("intruder", "y").get("telemetry")

        until("even the intruder's good message is stored", stored)
    finally:
        intruder.stop()
    half_good = world.streams("intruder", "x")["telemetry"]
    assert (half_good["lost"], half_good["upto"], half_good["rows"]) == ([[1, 1, "invalid"]], 2, 1)
    assert len(world.logged("hub", "wire.refused")) >= 10
    flows(world)
    world.all_arrived(DEVICE)
    assert world.get("/devices/another") is None


def test_two_agents_with_one_id_are_told_and_the_hub_survives(build: Any) -> None:
    world = build("embedded")
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    until("the first is online", lambda: world.online(DEVICE))
    flows(world, 1)
    world.start_edge(DEVICE, state="doomed-double")
    lines = until("the hub tells", lambda: world.logged("hub", "device.conflict"), 45)
    assert "give each its own device.id" in lines[0]["reason"]

    def told() -> list[Any]:
        found: list[Any] = world.logged(DEVICE, "link.refused") + world.logged("doomed-double", "link.refused")
        return found

    lines = until("the agent tells", told)
    assert "in use by another agent" in lines[0]["reason"]
    world.end("doomed-double")
    until("the first is alone again", lambda: world.online(DEVICE), 45)
    assert world.processes["hub"].poll() is None


def test_a_broken_model_is_told_and_the_device_works_on(build: Any, tmp_path: Path) -> None:
    world = build("embedded")
    bundle = tmp_path / "broken"
    shutil.copytree(world.assets / "digits-edge", bundle)
    model = bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-10] + bytes(10))
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE, world.camera(bundle))

    def failed() -> dict[str, Any] | None:
        state: dict[str, Any] = world.reported(DEVICE).get("models", {}).get("digits", {})
        return state if state.get("state") == "failed" and "manifest" in state.get("reason", "") else None

    state = until("the twin says why", failed)
    assert "'model.onnx' is not the one that its manifest names" in state["reason"]
    flows(world)
    rows = until("frames go up all the same", lambda: world.get("/escalations", device=DEVICE))
    assert {row["reason"] for row in rows} == {"no-model"}
    until("the expert answers them", lambda: [r for r in world.get("/escalations", device=DEVICE) if r["answer"]])


@pytest.mark.parametrize("kind", MOSQUITTO_FIRST)
def test_a_broker_that_comes_late(build: Any, kind: Kind) -> None:
    world = build(kind)
    world.start_hub()
    world.start_edge(DEVICE)
    until("the device has stored something", (world.folder / DEVICE / "outbox.sqlite").exists)
    until("both have tried in vain", lambda: world.logged("hub", "broker.down") and _stored(world) > 20)
    promised = _stored(world)
    world.broker.start()
    held = until("all that was stored meanwhile arrives", lambda: world.online(DEVICE) and world.all_arrived(DEVICE))
    assert held["telemetry"]["upto"] >= promised


def _stored(world: Any) -> int:
    number: int = world.accepted(DEVICE)["streams"].get("telemetry", {"accepted": 0})["accepted"]
    return number


def test_a_restored_disk_image_begins_another_epoch_and_nothing_new_is_lost(build: Any) -> None:
    """Its store reuses numbers that the hub has already seen: what it accepts now must not be taken for old."""
    world = build("embedded")
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    flows(world, 5)
    world.end(DEVICE)
    state, image = world.folder / DEVICE, world.folder / "image"
    shutil.copytree(state, image)
    world.resume_edge(DEVICE)
    flows(world, 40)
    world.all_arrived(DEVICE)
    old = world.accepted(DEVICE)["epoch"]
    world.end(DEVICE)
    shutil.rmtree(state)
    shutil.copytree(image, state)
    world.resume_edge(DEVICE)
    until("the store is renewed", lambda: world.logged(DEVICE, "outbox.renewed"), 30)
    assert world.accepted(DEVICE)["epoch"] != old
    until("it flows under the new epoch", lambda: world.all_arrived(DEVICE)["telemetry"]["upto"] > 20, 30)
