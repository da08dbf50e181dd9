"""The MQTT connection of the edge node: to one of several servers at a time, one attempt at a time.

What happens is queued and taken by the agent's thread. The queue is bounded: a broker that floods the device with
messages costs neither memory nor the agent's time; what does not fit is dropped and counted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edge_agent.config.sparkplug import Server
from shared.errors import NotReady
from shared.protocol.topics import SPARKPLUG
from shared.sparkplug.effects import Will
from shared.transport.mqtt import Address, Connection, Inbound, Options, Tls, parse_address
from shared.transport.mqtt import Will as MqttWill

log = logging.getLogger(__name__)

MAX_QUEUED = 200
HOST_STATES = f"{SPARKPLUG}/STATE/"
MAX_MESSAGE = 256 << 10
"""Bytes of a command that are read; larger ones are dropped."""


@dataclass(frozen=True, slots=True)
class Up:
    """The connection is up, and all filters are subscribed."""


@dataclass(frozen=True, slots=True)
class Down:
    """The attempt or the connection has ended; `was_up`: it had been up."""

    reason: str
    was_up: bool


Happening = Up | Down | Inbound


class _Attempt:
    """One MQTT connection that never reconnects by itself."""

    def __init__(self, options: Options, address: Address, will: Will, place: str) -> None:
        self._address: Address | None = address
        self._place, self._was_up, self.ended = place, False, False
        self.queue: deque[Happening] = deque()
        self.dropped = 0
        mqtt_will = MqttWill(topic=will.topic, payload=will.payload, retain=will.retain)
        self.connection = Connection(
            options, self._locate, on_message=self._message, on_up=self._up, on_down=self._down, will=lambda: mqtt_will
        )

    def _locate(self) -> Address:
        address, self._address = self._address, None
        if address is None:
            raise NotReady(f"{self._place}: this attempt is over")
        return address

    def _up(self) -> None:
        self._was_up = True
        self.queue.append(Up())

    def _down(self, reason: str) -> None:
        if not self.ended:
            self.ended = True
            self.queue.append(Down(reason, self._was_up))

    def _message(self, inbound: Inbound) -> None:
        most = 2 * MAX_QUEUED if inbound.topic.startswith(HOST_STATES) else MAX_QUEUED  # commands must not displace it
        if len(self.queue) >= most or len(inbound.payload) > MAX_MESSAGE:
            self.dropped += 1
        else:
            self.queue.append(inbound)


class ServerConnection:
    """Connects to `servers[index]`; all methods are called in the agent's thread and return at once."""

    def __init__(self, servers: Sequence[Server], client_id: str) -> None:
        self._servers, self._client_id = servers, client_id
        self._attempt: _Attempt | None = None
        self._dropped = 0

    @property
    def active(self) -> bool:
        """Whether an attempt or a connection has not ended yet."""
        return self._attempt is not None

    @property
    def dropped(self) -> int:
        """Messages that were not taken because there were too many, or they were too large."""
        return self._dropped + (self._attempt.dropped if self._attempt else 0)

    def connect(self, index: int, will: Will, filters: Sequence[str]) -> None:
        """Start one attempt; raises ConfigError for an address that cannot be read."""
        server = self._servers[index]
        address = parse_address(server.address, f"sparkplug.servers[{index}].address")
        options = Options(
            client_id=self._client_id, filters=filters, tls=_tls(server), protocol=server.protocol,
            username=server.username, password_file=server.password_file, max_packet=MAX_MESSAGE,
        )  # fmt: skip
        self._attempt = _Attempt(options, address, will, server.address)
        self._attempt.connection.start()

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> bool:
        """Pass a message on; False while there is no connection."""
        attempt = self._attempt
        if attempt is None or attempt.ended:
            return False
        return attempt.connection.publish(topic, payload, qos=qos, retain=retain, content_type="")

    def disconnect(self, *, with_will: bool) -> None:
        """End the connection after what was published; `happened` gives `Down` when it has ended."""
        if self._attempt is not None:
            self._attempt.connection.stop(0.0, with_will=with_will)

    def happened(self, most: int = 50) -> list[Happening]:
        """What has happened since the last call, in order, at most so many."""
        attempt, found = self._attempt, list[Happening]()
        while attempt is not None and attempt.queue and len(found) < most:
            found.append(event := attempt.queue.popleft())
            if isinstance(event, Down):
                attempt.connection.stop(0.0)
                self._dropped += attempt.dropped
                attempt = self._attempt = None
        return found

    def close(self, timeout_s: float) -> None:
        """End the connection and wait until what was published has been sent, at most `timeout_s`."""
        if self._attempt is not None:
            self._attempt.connection.stop(timeout_s)
            self._attempt = None


def _tls(server: Server) -> Tls | None:
    if server.tls is None:
        return None
    return Tls(**msgspec.structs.asdict(server.tls))
