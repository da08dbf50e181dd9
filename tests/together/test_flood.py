"""One device that floods: its messages are refused, counted and reported; the others' all arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from simulators.brokers import mosquitto as make_mosquitto
from simulators.brokers import until

from shared.protocol import topics
from shared.protocol.codec import encode
from shared.protocol.messages import Batch, Heartbeat
from shared.transport.mqtt import Connection, Inbound, Options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"
RATE = 20
FLOOD = 100 * RATE


def test_a_flood_is_refused_and_counted_and_the_others_lose_nothing(
    around: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    broker = make_mosquitto(tmp_path_factory.mktemp("flood"))
    world = around(broker, "")
    file = world.folder / "hub.toml"
    file.write_text(file.read_text("utf-8").replace("[mqtt]\n", f"[mqtt]\ndevice_rate = {RATE}\n"), "utf-8")
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    until("the device is online", lambda: world.online(DEVICE))
    answers: list[Inbound] = []
    up = threading.Event()
    hostile = Connection(
        Options(client_id="hostile", filters=[topics.thing("hostile", "heartbeat/answer")]),
        lambda: ("127.0.0.1", world.broker.port),
        on_message=answers.append, on_up=up.set, on_down=lambda _: None,
    )  # fmt: skip
    hostile.start()
    try:
        assert up.wait(20)
        for number in range(1, FLOOD + 1):
            item = {"metric": "a", "t_us": number, "value": 1}
            batch = encode(Batch(epoch="x", first=number, items=[item]))
            assert hostile.publish(topics.thing("hostile", "telemetry"), batch)
        (told, *_) = until("the hub tells", lambda: world.logged("hub", "device.rate_limited"))
        assert told["device"] == "hostile"
        epoch = world.accepted(DEVICE)["epoch"]
        before = world.streams(DEVICE, epoch)["telemetry"]["upto"]
        until("the others are heard on", lambda: world.streams(DEVICE, epoch)["telemetry"]["upto"] > before)
        world.all_arrived(DEVICE)
        upto = world.streams("hostile", "x").get("telemetry", {"upto": 0})["upto"]
        assert upto < FLOOD / 2, "the flood came in"
        beat = encode(Heartbeat(session="s"))

        def answered() -> bool:
            hostile.publish(topics.thing("hostile", "heartbeat"), beat, qos=0)
            return bool(answers)

        until("its budget fills again, and it is heard like everybody", answered)
        assert answers[0].payload == beat
    finally:
        hostile.stop()
    assert not [line for line in world.logged("hub", "device.rate_limited") if line["device"] == DEVICE]
