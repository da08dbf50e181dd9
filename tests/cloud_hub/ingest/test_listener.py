"""The listener's own promises: our fault is told to who asked, and a broker without `$aws` is named."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import embedded_broker, free_port, mosquitto, until

from cloud_hub.database.sessions import Database
from cloud_hub.ingest.listener import NO_ALIAS, TWO_HUBS, Listener
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.settings import Mqtt, Twins
from shared.protocol import topics
from shared.protocol.codec import DEFLATED, decode, deflate, encode
from shared.protocol.messages import Ack, Batch, Heartbeat, Sample
from shared.transport.mqtt import Connection, Inbound, Options


class Caught(Listener):
    """Keeps what it would publish."""

    def publish(self, messages: Any) -> None:
        self.published: list[OutgoingMessage] = list(messages)


@pytest.mark.parametrize("prefix", [topics.PREFIX, topics.AWS])
def test_a_request_that_we_fail_at_is_answered_500(db: Database, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    listener, acknowledged = Caught(Mqtt(), db, Twins(aws_alias=True), lambda _: None), []
    monkeypatch.setattr(listener._writer, "write", fail)
    topic = topics.shadow("press-3", "", "update", prefix)
    ack = lambda: acknowledged.append(True)  # noqa: E731
    listener._process([Inbound(topic=topic, payload=b'{"clientToken": "t"}', traceparent="", acknowledge=ack)])
    (message,) = listener.published
    body = decode(dict[str, Any], message.payload)
    assert message.topic == f"{topic}/rejected"
    assert (body["code"], body["message"], body["clientToken"]) == (500, "Internal service failure", "t")
    assert (acknowledged, listener.refused) == ([True], 1)


def test_a_broker_that_knows_no_aws_topics_is_named_with_the_cure(
    db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with embedded_broker(tmp_path) as (_, mqtt5), caplog.at_level(logging.INFO):
        for alias in (True, False):
            listener = Listener(Mqtt(address=f"127.0.0.1:{mqtt5}"), db, Twins(aws_alias=alias), lambda _: None)
            listener.start()
            try:
                until("the broker's answer", lambda: said(caplog, "broker.no_alias" if alias else "broker.up"), 10)  # noqa: B023
                assert listener.connected is not alias
            finally:
                listener.stop()
    assert said(caplog, "broker.no_alias")[0].fields == {"reason": NO_ALIAS}


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[Any]:
    return [record for record in caplog.records if record.message == event]


def test_two_hubs_under_one_client_id_are_named_with_the_cure(
    db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto(tmp_path)
    broker.start()
    settings = Mqtt(address=f"127.0.0.1:{broker.port}", client_id="tidegate-hub")
    hubs = [Listener(settings, db, Twins(), lambda _: None) for _ in range(2)]
    try:
        with caplog.at_level(logging.INFO):
            for hub in hubs:
                hub.start()
            until("one is evicted, and says why", lambda: said(caplog, "broker.session_taken_over"), 20)
    finally:
        for hub in hubs:
            hub.stop()
        broker.stop()
    assert said(caplog, "broker.session_taken_over")[0].fields == {"client_id": "tidegate-hub", "reason": TWO_HUBS}


def test_a_hub_goes_to_its_fallback_and_answers_heartbeats_there_without_the_database(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto(tmp_path)
    broker.start()
    settings = Mqtt(address=f"127.0.0.1:{free_port()}", fallback=[f"127.0.0.1:{broker.port}"])
    hub = Listener(settings, db, Twins(), lambda _: None)
    monkeypatch.setattr(db, "write", lambda *_: pytest.fail("a heartbeat touched the database"))
    heard: list[Inbound] = []
    beat = encode(Heartbeat(session="s1"))

    def ask() -> None:
        for payload in (b"{", b'{"session": ""}', beat):
            device.publish(topics.thing("press-3", "heartbeat"), payload, qos=0)

    device = Connection(
        Options(client_id="press-3", filters=topics.device_filters("press-3")), lambda: ("127.0.0.1", broker.port),
        on_message=heard.append, on_up=ask, on_down=lambda _: None,
    )  # fmt: skip
    try:
        hub.start()
        until("the hub is at its fallback", lambda: hub.connected, 20)
        device.start()
        until("the answer", lambda: heard, 10)
    finally:
        device.stop()
        hub.stop()
        broker.stop()
    assert [(one.topic, one.payload) for one in heard] == [(topics.thing("press-3", "heartbeat/answer"), beat)]
    assert hub.refused == 2
    assert hub.heard_us("press-3") > 0
    assert hub.heard_us("press-4") == 0


def test_deflated_telemetry_is_stored_and_a_bomb_is_refused_alone(db: Database) -> None:
    listener, acknowledged = Caught(Mqtt(), db, Twins(), lambda _: None), list[int]()
    items = [Sample(metric="cpu.load", t_us=n + 1, value=float(n)) for n in range(50)]
    payload, content_type = deflate(encode(Batch(epoch="e", first=1, items=items)))
    assert content_type == DEFLATED
    listener._process([
        Inbound(topic=topics.thing("press-3", "telemetry"), payload=body, traceparent="", content_type=DEFLATED,
                acknowledge=lambda: acknowledged.append(1))
        for body in (zlib.compress(b" " * (9 << 20)), payload)
    ])  # fmt: skip
    (ack,) = listener.published
    assert decode(Ack, ack.payload).upto == 50
    assert (len(acknowledged), listener.refused) == (2, 1)
