"""Agents and hubs of other versions, on a real broker: recorded messages of an older one, and a side that says more."""

from __future__ import annotations

import json
import queue
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from simulators.brokers import until
from simulators.wire import recorded, with_unknown_fields

from shared.protocol import topics
from shared.protocol.codec import decode, encode
from shared.protocol.messages import Birth, Session
from shared.transport.mqtt import Connection, Inbound, Options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"
GOLD = recorded()
Change = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def speaker(world: Any, name: str, filters: list[str]) -> Iterator[tuple[Connection, dict[str, dict[str, Any]]]]:
    """A bare client; what it has heard, the newest of each topic."""
    heard: dict[str, dict[str, Any]] = {}
    up: queue.Queue[str] = queue.Queue()

    def take(inbound: Inbound) -> None:
        heard[inbound.topic] = json.loads(inbound.payload or b"{}")

    client = Connection(
        Options(client_id=name, filters=filters), lambda: ("127.0.0.1", world.broker.port),
        on_message=take, on_up=lambda: up.put("up"), on_down=lambda _: None,
    )  # fmt: skip
    client.start()
    try:
        up.get(timeout=20)
        yield client, heard
    finally:
        client.stop()


def newer(payload: dict[str, Any]) -> dict[str, Any]:
    """What an agent of protocol 2 says on the same occasion."""
    more: dict[str, Any] = with_unknown_fields(payload, random.Random(3))
    return more | {"protocol": 2} if "protocol" in payload else more


@pytest.mark.parametrize("change", [lambda payload: payload, newer], ids=["protocol 1", "protocol 2"])
def test_an_agent_of_another_version_is_served(build: Any, change: Change) -> None:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    with speaker(world, DEVICE, topics.device_filters(DEVICE)) as (agent, heard):

        def say(name: str) -> None:
            word = GOLD[name]
            assert agent.publish(word.topic, json.dumps(change(word.payload)).encode(), correlation=b"")

        def answer(rest: str) -> dict[str, Any]:
            return until(rest, lambda: heard.get(topics.thing(DEVICE, rest)))

        until("the hub hears", lambda: world.http.get("/devices").status_code == 200)
        until("it is welcome", lambda: say("birth") or heard.get(topics.thing(DEVICE, "session")), 40)
        session = answer("session")
        assert (session["protocol"], session["refused"]) == (1, "")
        for name in ("telemetry", "telemetry-lost", "alarms", "events", "escalations", "command-response"):
            say(name)
        wanted = {"telemetry": 9, "alarm": 1, "event": 1, "escalation": 1}
        epoch = GOLD["birth"].payload["epoch"]
        until(
            "all streams are stored", lambda: {s: r["upto"] for s, r in world.streams(DEVICE, epoch).items()} == wanted
        )
        assert world.streams(DEVICE, epoch)["telemetry"]["lost"] == [[4, 9, "evicted"]]
        assert world.streams(DEVICE, epoch)["telemetry"]["rows"] == 3
        assert not any(row["lost"] for stream, row in world.streams(DEVICE, epoch).items() if stream != "telemetry")
        say("shadow-update")
        assert answer("shadow/update/accepted")["version"] == 1
        say("shadow-get")
        assert answer("shadow/get/accepted")["state"]["reported"] == {"settings": {"period_s": 0.5}}
        say("shadow-name-update")
        answer("shadow/name/thresholds/update/accepted")
        say("shadow-delete")
        assert answer("shadow/name/old/delete/rejected")["code"] == 404
        world.http.patch(f"/devices/{DEVICE}/twin", json={"desired": {"settings": {"period_s": -1}}})
        say("applied")
        until("progress", lambda: world.progress(DEVICE, "settings.period_s").get("state") == "refused")
        row = world.get(f"/devices/{DEVICE}")
        assert (row["asset_path"], row["protocol"]) == ("north/hall-2", change({"protocol": 1})["protocol"])
        say("birth-offline")
        until("it is away", lambda: not world.online(DEVICE))
    assert not world.logged("hub", "wire.refused")
    assert not world.logged("hub", "wire.item_refused")


def test_an_agent_two_versions_ahead_is_refused_with_the_cure(build: Any) -> None:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    with speaker(world, DEVICE, topics.device_filters(DEVICE)) as (agent, heard):
        payload = encode(Birth(device=DEVICE, session="s", protocol=3, epoch="e"))
        topic = topics.thing(DEVICE, "birth")
        until("an answer", lambda: agent.publish(topic, payload) and heard.get(topics.thing(DEVICE, "session")), 40)
        assert "update the hub first" in heard[topics.thing(DEVICE, "session")]["refused"]


@pytest.mark.parametrize(("spoken", "cure"), [(1, ""), (3, "update the agent")])
def test_an_agent_and_a_newer_hub(build: Any, spoken: int, cure: str) -> None:
    """The hub of protocol 2 answers in 1 and says more in each message; one that speaks 3 is refused by the agent."""
    world = build("mosquitto")
    world.broker.start()
    filters = [topics.thing(DEVICE, rest) for rest in ("birth", "telemetry", "shadow/get")]
    with speaker(world, "newer-hub", filters) as (hub, heard):
        world.start_edge(DEVICE)
        raw = until("a birth", lambda: heard.get(topics.thing(DEVICE, "birth")))
        birth = decode(Birth, json.dumps(raw).encode())

        def answer() -> None:
            word = Session(
                hub_epoch="h2", protocol=spoken, session=birth.session, epoch=birth.epoch, upto={"telemetry": 0}
            )
            more = with_unknown_fields(json.loads(encode(word)), random.Random(5))
            hub.publish(topics.thing(DEVICE, "session"), json.dumps(more).encode())

        answer()
        if cure:
            lines = until("the agent says it", lambda: world.logged(DEVICE, "link.refused"))
            assert cure in lines[0]["reason"]
            assert topics.thing(DEVICE, "telemetry") not in heard
            return
        batch = until("telemetry comes", lambda: heard.get(topics.thing(DEVICE, "telemetry")))
        until("its twin is fetched", lambda: topics.thing(DEVICE, "shadow/get") in heard)
        ack = {"epoch": batch["epoch"], "stream": "telemetry", "upto": len(batch["items"])}
        more = with_unknown_fields(ack, random.Random(7))
        hub.publish(topics.thing(DEVICE, "acks"), json.dumps(more).encode())
        until("it deletes", lambda: world.accepted(DEVICE)["streams"]["telemetry"]["at_hub"] >= len(batch["items"]))
        assert not world.logged(DEVICE, "wire.refused")
