"""The reader of MQTT packets reads what paho writes, in any pieces, and refuses what is no MQTT."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulators.sparkplug_logs import varint

from cloud_hub.scada.conformance.core.events import (
    AnyEvent,
    Connect,
    ConnectAck,
    Delivery,
    Disconnect,
    Publish,
    Subscribe,
    Will,
)  # fmt: skip
from cloud_hub.scada.conformance.core.mqtt import BadPacket, PacketReader

WILL = Will(topic="w", payload=b"\x00\x01", qos=1, retain=True)


def text(value: str) -> bytes:
    return struct.pack("!H", len(value.encode())) + value.encode()


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + varint(len(body)) + body


def connect(protocol: int) -> bytes:
    properties = b"\x05\x11" + struct.pack("!I", 60) if protocol == 5 else b""
    will = (b"\x00" if protocol == 5 else b"") + text("w") + b"\x00\x02\x00\x01"
    flags = 0x02 | 0x04 | 1 << 3 | 0x20
    return packet(0x10, text("MQTT") + bytes([protocol, flags]) + b"\x00\x14" + properties + text("me") + will)


def read(data: bytes, *, protocol: int = 4, from_client: bool = True, pieces: Iterable[int] = ()) -> list[AnyEvent]:
    reader = PacketReader(0, "c", from_client=from_client)
    reader.protocol = protocol
    found: list[AnyEvent] = []
    at = 0
    for size in (*pieces, len(data)):
        found += reader.feed(data[at : at + size], 7)
        at += size
    return found


@pytest.mark.parametrize("protocol", [4, 5])
def test_connect_is_read_with_its_will(protocol: int) -> None:
    (event,) = read(connect(protocol))
    expiry = 60 if protocol == 5 else 0
    assert event == Connect(
        at_ms=7, client="c", client_id="me", protocol=protocol, clean=True, session_expiry_s=expiry, will=WILL
    )


def test_subscribe_publish_and_disconnect_of_mqtt_5_are_read_with_properties() -> None:
    subscribe = packet(0x82, b"\x00\x01" + b"\x02\x0b\x05" + text("a/#") + b"\x01" + text("b") + b"\x02")
    publish = packet(0x33, text("t") + b"\x00\x09" + b"\x05\x26" + text("") + text("") + b"body")
    found = read(subscribe + publish + packet(0xE0, b"\x04\x00"), protocol=5)
    assert found == [
        Subscribe(at_ms=7, client="c", filters=(("a/#", 1), ("b", 2))),
        Publish(at_ms=7, client="c", topic="t", payload=b"body", qos=1, retain=True),
        Disconnect(at_ms=7, client="c", reason=4),
    ]


def test_a_topic_alias_stands_for_its_topic() -> None:
    alias = b"\x03\x23\x00\x01"
    found = read(packet(0x30, text("long") + alias + b"1") + packet(0x30, text("") + alias + b"2"), protocol=5)
    assert [event.topic for event in found if isinstance(event, Publish)] == ["long", "long"]


def test_the_broker_direction_gives_acknowledgements_and_deliveries() -> None:
    found = read(packet(0x20, b"\x00\x05") + packet(0x30, text("t") + b"x"), from_client=False)
    assert found == [
        ConnectAck(at_ms=7, client="c", accepted=False),
        Delivery(at_ms=7, client="c", topic="t", payload=b"x", qos=0, retain=False),
    ]


@given(pieces=st.lists(st.integers(0, 9), max_size=20))
def test_packets_are_read_the_same_in_any_pieces(pieces: list[int]) -> None:
    data = connect(4) + packet(0x30, text("t") + b"x" * 300) + packet(0xC0, b"") + packet(0xE0, b"")
    assert read(data, pieces=pieces) == read(data)
    assert len(read(data)) == 3


@given(data=st.binary(max_size=80), protocol=st.sampled_from([4, 5]), from_client=st.booleans())
def test_other_bytes_raise_bad_packet_and_nothing_else(data: bytes, protocol: int, from_client: bool) -> None:
    with contextlib.suppress(BadPacket):
        read(data, protocol=protocol, from_client=from_client)


@pytest.mark.parametrize(
    "data", [b"\x10\xff\xff\xff\xff\x01", b"\x30\xff\xff\xff\x7f", packet(0x10, text("HTTP") + b"\x04")]
)
def test_what_is_no_mqtt_is_refused(data: bytes) -> None:
    with pytest.raises(BadPacket):
        read(data)
