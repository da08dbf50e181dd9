"""The host's connection to one MQTT server, with its session there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cloud_hub.clock import now_us
from cloud_hub.ingest.core.rate_limit import RateLimiter
from cloud_hub.scada.core.records import Birth, Data, Death, Key, Note, Record
from cloud_hub.settings.scada import Sparkplug, SparkplugServer
from shared.protocol.topics import SPARKPLUG
from shared.sparkplug.effects import Data as DataEffect
from shared.sparkplug.effects import (
    DeviceBorn,
    DeviceDied,
    Disconnect,
    Flapping,
    HostEffect,
    NodeBorn,
    NodeDied,
    Publish,
    RebirthRequested,
    Refused,
)
from shared.sparkplug.host_session import HostOptions, HostSession
from shared.sparkplug.limits import DEFAULT
from shared.sparkplug.payload import Metric
from shared.sparkplug.topics import NodeId
from shared.transport.mqtt import Connection, Inbound, Options, Tls, Will, parse_address

log = logging.getLogger(__name__)

FLUSH_S = 0.2
"""Time for the last messages of a session to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A message of a server, or records that its connection made (`payload` is empty then). `at_us`: its arrival."""

    server: HostServer
    topic: str = ""
    payload: bytes = b""
    retained: bool = False
    records: tuple[Record, ...] = ()
    at_us: int = field(default_factory=now_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """How the connection to one server is. Times are UTC microseconds; `since_us` is when it last changed."""

    address: str
    connected: bool
    reason: str
    since_us: int
    messages: int
    limited: int


class HostServer:
    """One MQTT server. `put` takes what it receives; it may block. Sessions are called under a lock, one at a time."""

    def __init__(
        self, settings: Sparkplug, server: SparkplugServer, client_id: str, put: Callable[[Received], None],
        known: Iterable[NodeId] = (),
    ) -> None:  # fmt: skip
        address = parse_address(server.address, "sparkplug.servers.address")
        self.name, self._put = server.address, put
        self._settings = settings
        self._lock = threading.Lock()
        self._session = HostSession(
            HostOptions(
                host_id=settings.host_id, groups=tuple(one.group for one in settings.groups),
                reorder_timeout_ms=int(settings.reorder_timeout_s * 1000),
                max_nodes=settings.max_nodes,
            ),
            known,
        )  # fmt: skip
        tls = None if server.tls is None else Tls(**server.tls.model_dump())
        self._connection = Connection(
            Options(
                client_id=client_id, filters=self._session.filters, receive_maximum=1000,
                max_packet=DEFAULT.max_bytes + 4096, tls=tls, protocol=server.protocol, username=server.username,
                password_file=server.password_file,
            ),
            locate=lambda: address, on_message=self._arrived, on_up=self._up, on_down=self._down, will=self._will,
        )  # fmt: skip
        # One for each thread: messages on arrival, and their metrics once they are read.
        self._arriving, self._working = RateLimiter(settings.node_rate), RateLimiter(settings.node_rate)
        self._messages, self._since_us, self._reason = 0, now_us(), "not connected yet"
        self.connected = False

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._connection.start()

    def stop(self) -> None:
        """Say that the host is offline, and disconnect."""
        with self._lock:
            effects = self._session.disconnecting(_now_ms()) if self.connected else []
        self._perform(effect for effect in effects if not isinstance(effect, Disconnect))
        self._connection.stop()

    def status(self) -> ServerStatus:
        """How it is now. From any thread."""
        return ServerStatus(
            address=self.name, connected=self.connected, reason="" if self.connected else self._reason,
            since_us=self._since_us, messages=self._messages, limited=self._arriving.refused + self._working.refused,
        )  # fmt: skip

    # -- the connection's thread -------------------------------------------------------------------

    def _will(self) -> Will:
        with self._lock:
            will = self._session.connecting(_now_ms())
        if will is None:
            raise ValueError("a host without an id has no Will")
        return Will(topic=will.topic, payload=will.payload, retain=will.retain)

    def _up(self) -> None:
        self.connected, self._since_us = True, now_us()
        log.info("sparkplug.up", extra={"fields": {"server": self.name}})
        with self._lock:
            effects = self._session.subscribed(_now_ms())
        self._later(self._perform(effects))

    def _down(self, reason: str) -> None:
        if self.connected:
            with self._lock:
                self._session.lost(_now_ms())
        if self.connected or reason != self._reason:
            log.warning("sparkplug.down", extra={"fields": {"server": self.name, "reason": reason}})
            self._since_us = now_us()
        self.connected, self._reason = False, reason

    def _arrived(self, inbound: Inbound) -> None:
        node, kind = _node_of(inbound.topic)
        # A flood of deaths may end no other node's data; a flood of data may hide no death.
        if kind == "NDEATH":
            node = f"death of {node}"
        if self._allowed(self._arriving, node):
            self._messages += 1
            self._put(Received(server=self, topic=inbound.topic, payload=inbound.payload, retained=inbound.retained))

    def _later(self, records: list[Record]) -> None:
        if records:
            self._put(Received(server=self, records=tuple(records)))

    # -- the host's thread -------------------------------------------------------------------------

    def read(self, message: Received) -> list[Record]:
        """What a message means. Never raises for what is in it."""
        if message.records:
            return list(message.records)
        node, kind = _node_of(message.topic)
        if kind != "NDEATH" and not self._allowed(self._working, node):
            return []
        with self._lock:
            effects = self._session.received(
                message.topic, message.payload, _now_ms(), retained=message.retained
            )  # fmt: skip
        parts = node.split("/", 1)
        records = self._perform(effects, (parts[0], parts[-1], "") if len(parts) == 2 else None)
        metrics = sum(len(record.metrics) for record in records if isinstance(record, Birth | Data))
        self._working.charge(node, metrics / 50, time.monotonic())
        return records

    def tick(self) -> list[Record]:
        """Time has passed."""
        with self._lock:
            effects = self._session.tick(_now_ms())
        return self._perform(effects)

    def rebirth(self, key: Key, reason: str) -> list[Record]:
        """Ask a node for its births."""
        with self._lock:
            effects = self._session.rebirth(NodeId(*key[:2]), reason, _now_ms())
        return self._perform(effects, key)

    def command(self, key: Key, metric: Metric) -> list[Publish] | str:
        """The messages of a write, which are not sent yet; or why there are none."""
        with self._lock:
            effects = self._session.command(NodeId(*key[:2]), key[2], [metric], _now_ms())
        refused = next((effect.reason for effect in effects if isinstance(effect, Refused)), "")
        messages = [effect for effect in effects if isinstance(effect, Publish)]
        return messages if messages and not refused else refused or "the session has nothing to send"

    def publish(self, messages: Iterable[Publish]) -> bool:
        """Publish; False if one could not be passed on."""
        sent = [
            self._connection.publish(
                message.topic, message.payload, qos=message.qos, retain=message.retain, content_type=""
            )
            for message in messages
        ]
        return all(sent)

    def _perform(self, effects: Iterable[HostEffect], key: Key | None = None) -> list[Record]:
        """Publish what is to be published; returns the rest as records."""
        records: list[Record] = []
        for effect in effects:
            if isinstance(effect, DataEffect):
                records.append(_data(effect))
            elif isinstance(effect, Publish):
                self.publish([effect])
            elif isinstance(effect, Disconnect):
                self._connection.disconnect(effect.reason, with_will=effect.with_will)
            else:
                records += self._records(effect, key)
        return records

    def _records(self, effect: HostEffect, key: Key | None) -> list[Record]:
        if isinstance(effect, NodeBorn):
            return [
                Birth(key=_key(effect.node), metrics=effect.metrics, sent_ms=effect.timestamp, bd_seq=effect.bd_seq,
                      server=self.name)
            ]  # fmt: skip
        if isinstance(effect, DeviceBorn):
            born = _key(effect.node, effect.device)
            return [Birth(key=born, metrics=effect.metrics, sent_ms=effect.timestamp, server=self.name, gap=effect.gap)]
        if isinstance(effect, NodeDied):
            return [Death(key=_key(effect.node))]
        if isinstance(effect, DeviceDied):
            return [Death(key=_key(effect.node, effect.device))]
        if isinstance(effect, RebirthRequested):
            return [Note(key=_key(effect.node), reason=effect.reason, refused=False)]
        if isinstance(effect, Flapping):
            two = "; two nodes may have this id" if effect.two_nodes else ""
            reason = f"{effect.births} births within {effect.window_ms // 1000} s{two}"
            return [Note(key=_key(effect.node), reason=reason, refused=True)]
        if isinstance(effect, Refused):
            return [Note(key=key or ("", "", ""), reason=effect.reason, refused=True)]
        return []

    def _allowed(self, limiter: RateLimiter, node: str) -> bool:
        now = time.monotonic()
        if limiter.allow(node, now):
            return True
        for flooding, count in limiter.report(now).items():
            fields = {"node": flooding[:200], "refused": count, "reason": "more than sparkplug.node_rate allows"}
            log.error("sparkplug.rate_limited", extra={"fields": fields})
        return False


def _data(effect: DataEffect) -> Data:
    key = (effect.node.group, effect.node.node, effect.device)
    return Data(key=key, metrics=effect.metrics, sent_ms=effect.timestamp, gap=effect.gap)


def _key(node: NodeId, device: str = "") -> Key:
    return node.group, node.node, device


def _node_of(topic: str) -> tuple[str, str]:
    """(group/node, type) of a topic; the whole topic if it has another form."""
    parts = topic.split("/", 4)
    if len(parts) < 4 or parts[0] != SPARKPLUG:
        return topic[:300], ""
    return f"{parts[1]}/{parts[3]}"[:600], parts[2]


def _now_ms() -> int:
    return now_us() // 1000
