"""The MQTT connection: one thread alone touches its socket, whoever publishes; TLS breaks otherwise."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from simulators.brokers import documented_mosquitto, embedded_broker, mosquitto, mutual_mosquitto, until
from simulators.certificates import certificates

from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us
from shared.protocol import topics
from shared.transport.mqtt import Connection, Inbound, Options, Tls, _Receipt, acknowledge_all

TOPIC = topics.thing("press-3", "acks")
BURST = 30


def round_trip(port: int, tls: Tls | None = None) -> list[str]:
    """Publish a burst from this thread the moment the connection is up; returns why it went down before the end."""
    heard: queue.Queue[Any] = queue.Queue()
    up: queue.Queue[None] = queue.Queue()
    down: list[str] = []
    connection = Connection(
        Options(client_id="press-3", filters=[TOPIC], tls=tls), lambda: ("127.0.0.1", port),
        on_message=heard.put, on_up=lambda: up.put(None), on_down=down.append,
    )  # fmt: skip
    connection.start()
    try:
        up.get(timeout=20)
        for number in range(BURST):
            assert connection.publish(TOPIC, b"%d" % number)
        assert [int(heard.get(timeout=10).payload) for _ in range(BURST)] == list(range(BURST))
        return list(down)
    finally:
        connection.stop()


def writers(monkeypatch: pytest.MonkeyPatch, port: int, tls: Tls | None) -> set[str]:
    """Names of the threads that write to the socket in one round trip."""
    names: set[str] = set()
    send = paho.Client._sock_send

    def noted(client: Any, data: Any) -> int:
        names.add(threading.current_thread().name)
        return send(client, data)

    monkeypatch.setattr(paho.Client, "_sock_send", noted)
    round_trip(port, tls)
    return names


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[int, Tls]]:
    """A broker as the documentation sets it up: its port, and a device's certificate."""
    certificates(tmp_path, "broker", "press-3")
    broker = documented_mosquitto(tmp_path)
    broker.start()
    tls = Tls(ca=f"{tmp_path}/ca.pem", certificate=f"{tmp_path}/press-3.pem", key=f"{tmp_path}/press-3.key")
    yield broker.port, tls
    broker.stop()


def test_over_tls_one_thread_alone_writes(
    tmp_path: Path, secured: tuple[int, Tls], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert writers(monkeypatch, *secured) == {"mqtt-press-3"}
    with embedded_broker(tmp_path) as (_, mqtt5):
        assert writers(monkeypatch, mqtt5, None) > {"mqtt-press-3"}, "a second thread would be seen"


def test_a_burst_over_tls_breaks_nothing(secured: tuple[int, Tls]) -> None:
    assert [round_trip(*secured) for _ in range(5)] == [[]] * 5


@pytest.mark.parametrize(("days", "heard"), [(0, ""), (2, "has expired"), (-2, "good from")])
def test_with_a_time_of_its_own_the_brokers_certificate_is_judged_by_that(
    tmp_path: Path, days: int, heard: str
) -> None:
    """So a machine whose clock stands in 1970 connects, once it knows better; `renew` makes a second connection."""
    ca, now = CaFolder(tmp_path), now_us()
    ca.make("plant-1", now)
    for name, made in (
        ("broker", ca.issue_server(["127.0.0.1"], now, 1)),
        ("press-3", ca.issue_client("press-3", now)),
    ):
        (tmp_path / f"{name}.pem").write_bytes(made.certificate)
        (tmp_path / f"{name}.key").write_bytes(made.key)
    broker = mutual_mosquitto(tmp_path, ca.certificate)
    broker.start()
    tls = Tls(ca=str(ca.certificate), certificate=f"{tmp_path}/press-3.pem", key=f"{tmp_path}/press-3.key",
              now_us=lambda: now + days * 86_400_000_000)  # fmt: skip
    said: queue.Queue[str] = queue.Queue()
    connection = Connection(
        Options(client_id="press-3", filters=[TOPIC], tls=tls), lambda: ("127.0.0.1", broker.port),
        on_message=lambda _: None, on_up=lambda: said.put(""), on_down=said.put,
    )  # fmt: skip
    connection.start()
    try:
        first = said.get(timeout=20)
        assert heard in first if heard else first == ""
        if not heard:
            connection.renew()
            assert said.get(timeout=20) != "", "the old connection ended"
            assert said.get(timeout=20) == ""
    finally:
        connection.stop()
        broker.stop()


@pytest.mark.parametrize(("newest", "births"), [(True, [5]), (False, [1, 2, 3, 4, 5, 5])])
def test_of_what_only_the_newest_counts_the_broker_keeps_no_other(
    tmp_path: Path, newest: bool, births: list[int]
) -> None:
    """A hub that was away reads each device's last birth once, and every row; asked for otherwise it reads them all."""
    broker = mosquitto(tmp_path)
    broker.start()
    birth, rows = topics.thing("press-3", "birth"), topics.thing("press-3", "telemetry")
    try:
        with listening(broker.port, "hub", [birth, rows], newest=[birth] if newest else []):
            pass
        with listening(broker.port, "press-3", ["said"]) as (device, heard):
            for number in range(1, 6):
                assert device.publish(birth, b"%d" % number, retain=True)
                assert device.publish(rows, b"%d" % number)
            assert device.publish("said", b"")
            until("the broker has it all", lambda: heard)
        with listening(broker.port, "hub", [birth, rows], newest=[birth] if newest else []) as (hub, heard):
            assert hub.publish(rows, b"end")
            until("the end is heard", lambda: (rows, b"end") in heard)
            until("all births are heard", lambda: sum(topic == birth for topic, _ in heard) >= len(births))
        assert sorted(int(payload) for topic, payload in heard if topic == birth) == births
        assert [payload for topic, payload in heard if topic == rows] == [b"1", b"2", b"3", b"4", b"5", b"end"]
    finally:
        broker.stop()


@contextmanager
def listening(
    port: int, name: str, filters: list[str], newest: Sequence[str] = ()
) -> Iterator[tuple[Connection, list[tuple[str, bytes]]]]:
    """A client whose session outlives its connection; gives it and what it hears."""
    heard: list[tuple[str, bytes]] = []
    up = threading.Event()
    connection = Connection(
        Options(client_id=name, filters=filters, newest=newest, session_s=600), lambda: ("127.0.0.1", port),
        on_message=lambda inbound: heard.append((inbound.topic, inbound.payload)), on_up=up.set,
        on_down=lambda _: None,
    )  # fmt: skip
    connection.start()
    assert up.wait(20)
    yield connection, heard
    connection.stop()


def test_only_what_asks_for_it_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PUBACK for a message at QoS 0, such as a heartbeat, would break the protocol (MQTT 5.0 section 3.4)."""
    sent: list[bytes] = []
    monkeypatch.setattr(paho.Client, "_packet_queue", lambda _self, _command, packet, *_: sent.append(bytes(packet)))
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, manual_ack=True)
    inbound = [
        Inbound(topic=TOPIC, payload=b"", traceparent="", acknowledge=_Receipt(client, mid, qos))
        for mid, qos in ((0, 0), (1, 1), (2, 1))
    ]
    acknowledge_all(inbound)
    assert sent == [b"\x40\x02\x00\x01\x40\x02\x00\x02"]
    sent.clear()
    for one in inbound:
        one.acknowledge()
    assert sent == [b"\x40\x02\x00\x01", b"\x40\x02\x00\x02"]
