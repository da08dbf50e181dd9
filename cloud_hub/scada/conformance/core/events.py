"""What the checker observes: MQTT packets, each with its time, broker and connection.

Times are milliseconds since 1970 in UTC. `server` is the index of the broker, `client` a key of the TCP connection; it
is '' where only a subscriber watches, who cannot know which client published.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was observed at a time."""

    at_ms: int
    server: int = 0
    client: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """The Will message of a CONNECT packet."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect(Event):
    """CONNECT. `protocol` is 4 for MQTT 3.1.1 and 5 for MQTT 5; `clean` is Clean Session or Clean Start."""

    client_id: str
    protocol: int
    clean: bool
    session_expiry_s: int = 0
    will: Will | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectAck(Event):
    """CONNACK; `accepted` is whether the broker let the client in."""

    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe(Event):
    """SUBSCRIBE: pairs of filter and requested QoS."""

    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish(Event):
    """PUBLISH of a client to the broker, or seen by a subscriber when `client` is ''.

    `simulated`: the checker's own simulated edge node or host sent it; it is not judged.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(Event):
    """PUBLISH of the broker to a client."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect(Event):
    """DISCONNECT of a client; `reason` is 0x04 for 'Disconnect with Will Message' (MQTT 5)."""

    reason: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed(Event):
    """The TCP connection ended, on either side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed(Event):
    """What MQTT does not show was looked up, by a person or at the host: whether `rule` was kept."""

    rule: str
    kept: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Event):
    """Time has passed; deadlines are judged."""


AnyEvent = Connect | ConnectAck | Subscribe | Publish | Delivery | Disconnect | Closed | Confirmed | Tick
