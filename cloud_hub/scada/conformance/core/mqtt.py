"""A sans-I/O reader of MQTT packets, 3.1.1 and 5.0, for the proxy: bytes of one connection in, events out.

It is written by hand because the bytes are forwarded as they came and a broken packet is a finding, not an end of the
connection; the kept libraries are clients or brokers (docs/adr/0028-conformance-checker.md). Only the packets that
statements are about are read; others are skipped. Source: MQTT 3.1.1 and 5.0, chapters 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator

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

CONNECT, CONNACK, PUBLISH, SUBSCRIBE, DISCONNECT = 1, 2, 3, 8, 14
MAX_PACKET = 16 * 1024 * 1024
"""Longest packet in bytes that is read; MQTT allows 256 MiB."""

_SESSION_EXPIRY, _TOPIC_ALIAS = 0x11, 0x23
_BYTE = frozenset({0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A})
_TWO = frozenset({0x13, 0x21, 0x22, 0x23})
_FOUR = frozenset({0x02, 0x11, 0x18, 0x27})
_BINARY = frozenset({0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F})
_VARINT, _PAIR = 0x0B, 0x26


class BadPacket(ValueError):
    """The bytes are not MQTT."""


class _Cursor:
    """Reads the fields of one packet."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def read(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.left:
            raise BadPacket("a packet ends inside a field")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, width: int) -> int:
        """An unsigned big-endian integer."""
        return int.from_bytes(self.read(width), "big")

    def binary(self) -> bytes:
        """Bytes with their length before them."""
        return self.read(self.number(2))

    def text(self) -> str:
        """A string; what is no UTF-8 stays visible as a lone surrogate, which no valid id contains."""
        return self.binary().decode("utf-8", "surrogateescape")

    def varint(self) -> int:
        """A variable byte integer."""
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise BadPacket("a length has more than four bytes")

    def properties(self) -> dict[int, int]:
        """The numeric properties of MQTT 5."""
        inner = _Cursor(self.read(self.varint()))
        found: dict[int, int] = {}
        while inner.left:
            key = inner.varint()
            if key in _BYTE or key in _TWO or key in _FOUR:
                found[key] = inner.number(1 if key in _BYTE else 2 if key in _TWO else 4)
            elif key in _BINARY or key == _PAIR:
                for _ in range(2 if key == _PAIR else 1):
                    inner.binary()
            elif key == _VARINT:
                found[key] = inner.varint()
            else:
                raise BadPacket(f"property {key:#04x} is unknown")
        return found


class PacketReader:
    """One direction of a connection. `protocol` is set by the CONNECT that the client's direction reads."""

    def __init__(self, server: int, client: str, *, from_client: bool) -> None:
        self.protocol = 4
        self._server, self._client, self._from_client = server, client, from_client
        self._buffer = bytearray()
        self._aliases: dict[int, str] = {}

    def feed(self, data: bytes, at_ms: int) -> Iterator[AnyEvent]:
        """Events of the packets that `data` completes. Raises BadPacket; the reader is of no use afterwards."""
        self._buffer += data
        while (size := self._size()) is not None:
            head, length = size
            if len(self._buffer) < head + length:
                return
            first, body = self._buffer[0], bytes(self._buffer[head : head + length])
            del self._buffer[: head + length]
            event = self._read(first, _Cursor(body), at_ms)
            if event is not None:
                yield event

    def _size(self) -> tuple[int, int] | None:
        """Length of the fixed header and of the rest; None while they are not here."""
        length = 0
        for index, byte in enumerate(self._buffer[1:5]):
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if length > MAX_PACKET:
                    raise BadPacket(f"a packet of {length} bytes is longer than {MAX_PACKET}")
                return index + 2, length
            if index == 3:
                raise BadPacket("a length has more than four bytes")
        return None

    def _read(self, first: int, body: _Cursor, at_ms: int) -> AnyEvent | None:
        kind = first >> 4
        if kind == PUBLISH:
            return self._publish(first & 0x0F, body, at_ms)
        if self._from_client:
            return self._control(kind, body, at_ms)
        if kind == CONNACK:
            body.read(1)
            return ConnectAck(at_ms=at_ms, server=self._server, client=self._client, accepted=body.number(1) == 0)
        return None

    def _control(self, kind: int, body: _Cursor, at_ms: int) -> AnyEvent | None:
        if kind == CONNECT:
            return self._connect(body, at_ms)
        if kind == SUBSCRIBE:
            return self._subscribe(body, at_ms)
        return self._disconnect(body, at_ms) if kind == DISCONNECT else None

    def _connect(self, body: _Cursor, at_ms: int) -> Connect:
        if body.text() not in ("MQTT", "MQIsdp"):
            raise BadPacket("CONNECT does not name MQTT")
        self.protocol = body.number(1)
        flags = body.number(1)
        body.read(2)
        properties = body.properties() if self.protocol >= 5 else {}
        client_id = body.text()
        will = self._will(flags, body) if flags & 0x04 else None
        return Connect(
            at_ms=at_ms, server=self._server, client=self._client, client_id=client_id, protocol=self.protocol,
            clean=bool(flags & 0x02), session_expiry_s=properties.get(_SESSION_EXPIRY, 0), will=will,
        )  # fmt: skip

    def _will(self, flags: int, body: _Cursor) -> Will:
        if self.protocol >= 5:
            body.properties()
        topic, payload = body.text(), body.binary()
        return Will(topic=topic, payload=payload, qos=flags >> 3 & 3, retain=bool(flags & 0x20))

    def _subscribe(self, body: _Cursor, at_ms: int) -> Subscribe:
        body.read(2)
        if self.protocol >= 5:
            body.properties()
        filters = []
        while body.left:
            topic = body.text()
            filters.append((topic, body.number(1) & 3))
        return Subscribe(at_ms=at_ms, server=self._server, client=self._client, filters=tuple(filters))

    def _disconnect(self, body: _Cursor, at_ms: int) -> Disconnect:
        reason = body.number(1) if self.protocol >= 5 and body.left else 0
        return Disconnect(at_ms=at_ms, server=self._server, client=self._client, reason=reason)

    def _publish(self, flags: int, body: _Cursor, at_ms: int) -> Publish | Delivery:
        topic, qos = body.text(), flags >> 1 & 3
        if qos:
            body.read(2)
        properties = body.properties() if self.protocol >= 5 else {}
        alias = properties.get(_TOPIC_ALIAS)
        if alias is not None:
            topic = topic or self._aliases.get(alias, "")
            self._aliases[alias] = topic
        kind = Publish if self._from_client else Delivery
        return kind(
            at_ms=at_ms, server=self._server, client=self._client, topic=topic, payload=body.read(body.left), qos=qos,
            retain=bool(flags & 1),
        )  # fmt: skip
