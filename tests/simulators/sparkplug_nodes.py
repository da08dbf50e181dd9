"""A fleet of Sparkplug edge nodes in one process: a real MQTT 3.1.1 connection for each node, over asyncio.

Nodes do what the specification asks of them and no more: a Will with bdSeq, the birth with all metrics, DATA by alias
without datatypes, a new birth on `Node Control/Rebirth`, a new bdSeq and birth on each connection, and with
`primary_host` a birth only while that host is online. They are cheap rather than complete: no devices, no history.

    fleet = Fleet(port, nodes=1000, metrics=100)
    await fleet.start()
    await fleet.send(changes=5)     # five metrics of every node have a new value
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import BD_SEQ, REBIRTH, Metric, Payload

CONNACK, PUBLISH, SUBACK = 2, 3, 9
KEEPALIVE_S = 60
RETRY_S = (0.2, 2.0)
"""Shortest and longest wait before a node connects again."""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


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


def split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """(complete packets as (first byte, body), the incomplete rest)."""
    packets, at = [], 0
    while True:
        size, shift, head = 0, 0, at + 1
        while head < len(data) and data[head] > 127:
            size, shift, head = size | (data[head] & 127) << shift, shift + 7, head + 1
        if head >= len(data):
            return packets, data[at:]
        end = head + 1 + (size | data[head] << shift)
        if end > len(data):
            return packets, data[at:]
        packets.append((data[at], data[head + 1 : end]))
        at = end


class Connection(asyncio.Protocol):
    """One connection of a node."""

    def __init__(self, node: Node) -> None:
        self._node, self._left = node, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        flags = 0b00001110  # clean session, Will of QoS 1, not retained
        head = text("MQTT") + bytes([4, flags]) + KEEPALIVE_S.to_bytes(2, "big")
        will = text(self._node.topic("NDEATH")) + text(self._node.death())
        transport.write(packet(0x10, head + text(self._node.client_id) + will))

    def connection_lost(self, exc: Exception | None) -> None:
        self._node.lost(self)

    def data_received(self, data: bytes) -> None:
        packets, self._left = split(self._left + data)
        for head, body in packets:
            self._received(head, body)

    def _received(self, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == CONNACK:
            assert body[1] == 0, f"the broker refused {self._node.client_id} with code {body[1]}"
            filters = b"".join(text(one) + b"\1" for one in self._node.filters())
            self.transport.write(packet(0x82, b"\0\1" + filters))
        elif kind == SUBACK:
            self._node.subscribed()
        elif kind == PUBLISH:
            length = int.from_bytes(body[:2], "big")
            at = 2 + length
            if head & 6:
                self.transport.write(packet(0x40, body[at : at + 2]))
                at += 2
            self._node.received(body[2 : 2 + length].decode(), body[at:])

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message with QoS 0."""
        self.transport.write(packet(0x30, text(topic) + payload))


@dataclass(eq=False)
class Node:
    """One edge node. `values[i]` is the present value of `metric/<i>`, a Double with alias i + 2."""

    group: str
    name: str
    port: int
    values: list[float]
    primary_host: str = ""
    rng: random.Random = field(default_factory=random.Random)
    count: Counter[str] = field(default_factory=Counter)
    connection: Connection | None = None
    born: bool = False
    _bd_seq: int = -1
    _seq: int = 0
    _next: int = 0
    _closed: bool = False
    _retry: asyncio.TimerHandle | None = None

    @property
    def client_id(self) -> str:
        """The MQTT client id."""
        return f"{self.group}-{self.name}"

    def topic(self, kind: str) -> str:
        """The topic of a message of this node."""
        return f"spBv1.0/{self.group}/{kind}/{self.name}"

    def filters(self) -> list[str]:
        """The subscriptions: its commands, and the state of the primary host."""
        return [self.topic("NCMD"), *([f"spBv1.0/STATE/{self.primary_host}"] if self.primary_host else [])]

    def death(self) -> bytes:
        """The Will of the connection that is being made."""
        return encode(Payload(timestamp=now_ms(), metrics=(self._bd_seq_metric(),)))

    def _bd_seq_metric(self) -> Metric:
        return Metric(name=BD_SEQ, timestamp=now_ms(), datatype=DataType.Int64, value=self._bd_seq)

    async def connect(self) -> None:
        """Connect once; a refused or lost connection is tried again later."""
        self._bd_seq = (self._bd_seq + 1) % 256
        loop = asyncio.get_running_loop()
        try:
            _, self.connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        except OSError:
            self._connect_later()

    def _connect_later(self) -> None:
        if not self._closed:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(self.rng.uniform(*RETRY_S), lambda: loop.create_task(self.connect()))

    def close(self) -> None:
        """End without a death certificate, so that the broker publishes the Will."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self.connection is not None:
            self.connection.transport.abort()

    def lost(self, connection: Connection) -> None:
        """The connection has ended."""
        if connection is self.connection:
            self.connection, self.born = None, False
            self.count["lost"] += 1
            self._connect_later()

    def subscribed(self) -> None:
        """The subscriptions stand: give birth, unless the primary host has to be online first."""
        self.count["connections"] += 1
        if not self.primary_host:
            self.birth()

    def received(self, topic: str, payload: bytes) -> None:
        """A command, or the state of the primary host."""
        if "/STATE/" in topic:
            online = json.loads(payload)["online"]
            if online and not self.born:
                self.birth()
            elif not online and self.connection is not None:
                self.connection.transport.abort()
            return
        for metric in decode(payload, types={REBIRTH: DataType.Boolean}).metrics:
            if metric.name == REBIRTH and metric.value is True:
                self.count["rebirths"] += 1
                self.birth()

    def birth(self) -> None:
        """Send NBIRTH with every metric."""
        now = now_ms()
        metrics = [self._bd_seq_metric(), Metric(name=REBIRTH, timestamp=now, datatype=DataType.Boolean, value=False)]
        for at, value in enumerate(self.values):
            name = f"metric/{at}"
            metrics.append(Metric(name=name, alias=at + 2, timestamp=now, datatype=DataType.Double, value=value))
        self._seq, self.born = 0, True
        self._publish("NBIRTH", metrics)
        self.count["births"] += 1

    def data(self, changes: int) -> None:
        """Send one NDATA with new values of `changes` metrics, in turn; nothing before the birth."""
        if not self.born:
            return
        now, metrics = now_ms(), []
        for _ in range(changes):
            at, self._next = self._next, (self._next + 1) % len(self.values)
            self.values[at] += 1.0
            metrics.append(Metric(alias=at + 2, timestamp=now, datatype=DataType.Double, value=self.values[at]))
        self._publish("NDATA", metrics)
        self.count["data"] += changes

    def _publish(self, kind: str, metrics: list[Metric]) -> None:
        assert self.connection is not None
        payload = Payload(timestamp=now_ms(), metrics=tuple(metrics), seq=self._seq)
        self.connection.publish(self.topic(kind), encode(payload, with_datatypes=kind == "NBIRTH"))
        self._seq = (self._seq + 1) % 256

    def ping(self) -> None:
        """Keep the connection alive."""
        if self.connection is not None:
            self.connection.transport.write(b"\xc0\0")


class Fleet:
    """So many nodes with so many metrics each, on one broker of this machine."""

    def __init__(
        self, port: int, *, nodes: int, metrics: int, group: str = "fleet", primary_host: str = "", seed: int = 7
    ) -> None:
        rng = random.Random(seed)
        self.nodes = [
            Node(group=group, name=f"node-{number}", port=port, values=[float(number)] * metrics,
                 primary_host=primary_host, rng=random.Random(rng.getrandbits(64)))
            for number in range(nodes)
        ]  # fmt: skip

    async def start(self, at_once: int = 100) -> None:
        """Connect all, `at_once` at a time, and wait until each has given birth."""
        for first in range(0, len(self.nodes), at_once):
            await asyncio.gather(*(node.connect() for node in self.nodes[first : first + at_once]))
        await self.all_born()

    async def all_born(self) -> None:
        """Wait until every node has given birth on its present connection."""
        while not all(node.born for node in self.nodes):
            await asyncio.sleep(0.02)

    async def send(self, changes: int) -> None:
        """One NDATA of every node; other tasks run in between."""
        for number, node in enumerate(self.nodes):
            node.data(changes)
            if number % 50 == 49:
                await asyncio.sleep(0)

    def ping(self) -> None:
        """Keep all connections alive; call it within KEEPALIVE_S."""
        for node in self.nodes:
            node.ping()

    def total(self, what: str) -> int:
        """Sum over the nodes of `births`, `rebirths` (asked for), `data` (metrics), `connections` or `lost` (ones)."""
        return sum(node.count[what] for node in self.nodes)

    def close(self) -> None:
        """End all connections without a death certificate."""
        for node in self.nodes:
            node.close()
