"""Simulated devices for `benchmarks.fleet`: the agent's own link session and twin, over an MQTT 5 client of 100 lines.

Stores are in memory and the clock is injected; all messages are those of a real agent, over a real connection for each
device. One asyncio loop runs all devices.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from edge_agent.link.core.session import (
    Effect,
    Fetch,
    Forget,
    LinkSession,
    PublishBirth,
    Reconnect,
    Send,
    SendHeartbeat,
)
from edge_agent.store.statestore import StateStore
from edge_agent.twin.sync import TwinSync
from shared.protocol import topics
from shared.protocol.codec import decode, encode
from shared.protocol.messages import STREAMS, Ack, Batch, Birth, Heartbeat, Sample, Session, Stream
from shared.transport.mqtt import Inbound

CONNACK, PUBLISH, PUBACK, SUBACK = 2, 3, 4, 9
KEEPALIVE_S = 60


def text(value: str | bytes) -> bytes:
    """A string of MQTT: two bytes of length, then UTF-8."""
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def packet(head: int, body: bytes) -> bytes:
    """A complete packet: the first byte, the length in groups of seven bits, the body."""
    length, size = len(body), bytearray()
    while True:
        length, seven = length >> 7, length & 127
        size.append(seven | (128 if length else 0))
        if not length:
            return bytes([head]) + bytes(size) + body


class Client(asyncio.Protocol):
    """One connection: QoS 1 both ways, a retained Will, no session at the broker."""

    def __init__(self, device: Device) -> None:
        self._device, self._left, self._id = device, b"", 0

    def connection_made(self, transport: Any) -> None:
        device, self.transport = self._device, transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        flags = 0b00101110  # clean start; Will of QoS 1, retained
        head = text("MQTT") + bytes([5, flags]) + KEEPALIVE_S.to_bytes(2, "big") + b"\0"
        will = b"\0" + text(topics.thing(device.id, "birth")) + text(device.birth("offline"))
        transport.write(packet(0x10, head + text(device.id) + will))
        filters = b"".join(text(one) + b"\1" for one in topics.device_filters(device.id))
        transport.write(packet(0x82, b"\0\1\0" + filters))

    def connection_lost(self, exc: Exception | None) -> None:
        self._device.lost(self)

    def data_received(self, data: bytes) -> None:
        """Split into packets; an incomplete one is buffered."""
        data, at = self._left + data, 0
        while True:
            size, shift, head = 0, 0, at + 1
            while head < len(data) and data[head] > 127:
                size, shift, head = size | (data[head] & 127) << shift, shift + 7, head + 1
            if head >= len(data):
                break
            size |= data[head] << shift
            end = head + 1 + size
            if end > len(data):
                break
            self._packet(data[at], data[head + 1 : end])
            at = end
        self._left = data[at:]

    def _packet(self, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == SUBACK:
            self._device.up()
        elif kind == PUBLISH:
            length = int.from_bytes(body[:2], "big")
            topic, at = body[2 : 2 + length].decode(), 2 + length
            if head & 6:
                self.transport.write(packet(0x40, body[at : at + 2]))
                at += 2
            at += 1 + body[at]  # properties below 128 bytes: what the hub sends has few
            self._device.received(topic, body[at:])

    def publish(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> None:
        """Send a message; the broker's PUBACK is no receipt and is not waited for."""
        self._id = self._id % 65535 + 1
        number = self._id.to_bytes(2, "big") if qos else b""
        self.transport.write(packet(0x30 | qos << 1 | retain, text(topic) + number + b"\0" + payload))


class MemoryStateStore(StateStore):
    """The agent's state store, in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def below(self, prefix: str) -> dict[str, Any]:
        return {key[len(prefix) :]: value for key, value in self._kept.items() if key.startswith(prefix)}

    def put(self, key: str, value: Any) -> None:
        self._kept[key] = value

    def changed(self, reader: str = "twins") -> bool:
        return False

    def requests(self) -> list[tuple[int, str, Any]]:
        return []


class Device:
    """One agent's core. `clock()` is its monotonic time in seconds; `rows` wait for the hub's acknowledgement."""

    def __init__(self, device_id: str, port: int, clock: Callable[[], float], rng: random.Random) -> None:
        self.id, self._port, self._clock, self._rng = device_id, port, clock, rng
        self.epoch = f"{rng.getrandbits(64):016x}"
        self.session = LinkSession(self.epoch, dict.fromkeys(STREAMS, 0), random=rng.random)
        self._last: dict[Stream, int] = dict.fromkeys(STREAMS, 0)
        self._rows: deque[tuple[int, int, bytes]] = deque()
        self._client: Client | None = None
        self._connection = ""
        self._wanted = False
        self.accepted = self.reconnects = self._flooded = 0
        self.reported: Any = None
        self.late_us: list[float] = []
        self._sent_at: dict[int, float] = {}
        self._twin = TwinSync(MemoryStateStore(), self._send)
        self._twin.handle("", "settings", lambda value: value, own={"period_s": 1.0})
        self._twin.begin()
        self._twin.report("", {"agent": {"version": "bench", "boot": 1}})

    # -- status ------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Items accepted and not acknowledged by the hub."""
        return self._last["telemetry"] - (self._rows[0][0] - 1 if self._rows else self._last["telemetry"])

    def birth(self, state: Any = "online") -> bytes:
        """The birth, or the Will."""
        return encode(
            Birth(
                device=self.id, session=self._connection, state=state, epoch=self.epoch, profile="x86-64",
                version="bench", asset_path="bench/site/area/line/cell",
            )
        )  # fmt: skip

    def accept(self, samples: int, t_us: int) -> None:
        """One row of so many samples into the outbox."""
        first = self._last["telemetry"] + 1
        items = [Sample(metric="cpu.load", t_us=t_us + number, value=float(number)) for number in range(samples)]
        self._last["telemetry"] += samples
        self.accepted += samples
        payload = encode(Batch(epoch=self.epoch, first=first, items=items))
        self._rows.append((first, self._last["telemetry"], payload))
        self.pump()

    def flood(self, t_us: int) -> None:
        """Send one row outside of the outbox without waiting for its acknowledgement, unlike a real agent."""
        self._flooded += 1
        item = Sample(metric="cpu.load", t_us=t_us, value=1.0)
        if self._client is not None:
            row = encode(Batch(epoch="flood", first=self._flooded, items=[item]))
            self._client.publish(topics.thing(self.id, "telemetry"), row)

    # -- the connection ----------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect; `tick` retries an unavailable broker."""
        self._connection, self._wanted = f"{self._rng.getrandbits(64):016x}", False
        loop = asyncio.get_running_loop()
        try:
            _, self._client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self._port)
        except OSError:
            self._wanted = True

    def up(self) -> None:
        self._carry_out(self.session.up(self._connection, self._clock()))

    def lost(self, client: Client) -> None:
        if client is self._client:
            self._client, self._wanted = None, True
            self.session.down()

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.transport.abort()

    def tick(self) -> bool:
        """Advance the timers; returns whether a new connection is needed."""
        self._carry_out(self.session.tick(self._clock()))
        self._twin.tick()
        self.pump()
        return self._wanted

    def ping(self) -> None:
        if self._client is not None:
            self._client.transport.write(b"\xc0\0")

    def received(self, topic: str, payload: bytes) -> None:
        _, rest = topics.split(topic) or ("", "")
        now = self._clock()
        if rest == "acks":
            ack = decode(Ack, payload, topic)
            self._measure(ack.upto, now)
            self._carry_out(self.session.handle_ack(ack, now))
        elif rest == "session":
            self._carry_out(self.session.handle_session(decode(Session, payload, topic), now))
        elif rest == "heartbeat/answer":
            self.session.handle_heartbeat(decode(Heartbeat, payload, topic), now)
        elif rest.startswith("shadow"):
            self._twin.received(rest, Inbound(topic=topic, payload=payload, traceparent="", acknowledge=lambda: None))
            if rest in {"shadow/update/accepted", "shadow/get/accepted"}:
                body = decode(dict[str, Any], payload, topic)
                self.reported = (body["state"].get("reported") or {}).get("settings", self.reported)
        self.pump()

    def _measure(self, upto: int, now: float) -> None:
        for last in [last for last in self._sent_at if last <= upto]:
            self.late_us.append((now - self._sent_at.pop(last)) * 1e6)

    # -- effects of the cores ----------------------------------------------------------------------

    def pump(self) -> None:
        self.session.appended(self._last)
        while self._client is not None and (send := self.session.next()) is not None:
            row = next(row for row in self._rows if row[1] > send.after)
            self._client.publish(topics.thing(self.id, "telemetry"), row[2])
            self._sent_at.setdefault(row[1], self._clock())
            self.session.sent(send.stream, row[1], self._clock())

    def _send(self, rest: str, message: Any, **_: Any) -> bool:
        if self._client is None:
            return False
        self._client.publish(topics.thing(self.id, rest), encode(message))
        return True

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Forget):
                while self._rows and self._rows[0][1] <= effect.upto:
                    self._rows.popleft()
            elif isinstance(effect, Fetch):
                self._twin.fetch(effect.restart)
            elif isinstance(effect, Reconnect):
                self.reconnects += 1
                self.session.down()
                self.close()
                self._wanted = True
            elif self._client is not None and isinstance(effect, PublishBirth):
                self._client.publish(topics.thing(self.id, "birth"), self.birth(), retain=True)
            elif self._client is not None and isinstance(effect, SendHeartbeat):
                beat = encode(Heartbeat(session=self._connection))
                self._client.publish(topics.thing(self.id, "heartbeat"), beat, 0)
            else:
                assert not isinstance(effect, Send)
