"""One Sparkplug host application on one server, without I/O (specification 3.0, chapters 5 and 6).

    will = session.connecting(now_ms)              # CONNECT with this Will (None without host id)
    ... connected, and subscribed to session.filters ...
    act(session.subscribed(now_ms))                # the birth: STATE online
    act(session.received(topic, payload, now_ms))  # for each message
    act(session.tick(now_ms))                      # about every 100 ms
    session.lost(now_ms)                           # the connection is down, whoever ended it
    act(session.disconnecting(now_ms))             # on purpose: STATE offline, Disconnect

`act` carries out `HostEffect`s in their order. A host of several servers has one session for each. All messages come
from foreign machines: the session never raises for what is in them, and its work and memory per node are bounded.
It keeps the definitions of metrics (name, alias, datatype), not their values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from shared.sparkplug.effects import HostEffect, Will
from shared.sparkplug.payload import Metric
from shared.sparkplug.topics import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """Options of a host application.

    `host_id` '' is a host without STATE: it watches and may send commands. `groups` empty are all groups.
    Rebirth requests to one node are `rebirth_first_ms` apart, then twice as long each, up to `rebirth_limit_ms`; all
    requests together are at most `rebirth_burst` at once and `rebirth_per_s` a second afterwards.
    """

    host_id: str = ""
    groups: tuple[str, ...] = ()
    mqtt5: bool = True
    reorder_timeout_ms: int = 2_000
    rebirth_first_ms: int = 5_000
    rebirth_limit_ms: int = 600_000
    rebirth_per_s: float = 20.0
    rebirth_burst: int = 50
    future_ms: int = 60_000
    max_nodes: int = 5_000
    max_devices: int = 1_000
    """Devices of one node."""
    max_metrics: int = 50_000
    """Metrics of one node and all its devices."""
    max_waiting: int = 64
    """Messages of one node that wait for a missing one; beyond it the missing one counts as lost."""
    max_waiting_bytes: int = 1 << 20


class Liveness(str, Enum):
    """What the host knows of a node."""

    UNKNOWN = "unknown"
    """Heard of, no NBIRTH yet."""
    ONLINE = "online"
    OFFLINE = "offline"
    REFUSED = "refused"
    """Its NBIRTH broke a limit; its messages are ignored until the next NBIRTH."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What the session knows of one node, for status pages. Times are the host's, in ms."""

    node: NodeId
    liveness: Liveness
    bd_seq: int | None
    born_ms: int | None
    heard_ms: int
    devices: tuple[str, ...]
    metrics: int
    aliases: bool
    rebirth_wanted: str
    """Why a rebirth is wanted, '' if none is."""
    rebirths_requested: int
    flapping: bool


class HostSession:
    """The session of one host on one server. `known` are nodes of earlier runs: they are asked for their births."""

    def __init__(self, options: HostOptions, known: Iterable[NodeId] = ()) -> None:
        raise NotImplementedError

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe, all at QoS 1 in one SUBSCRIBE, before `subscribed`."""
        raise NotImplementedError

    def nodes(self) -> list[NodeStatus]:
        """All nodes that the session knows."""
        raise NotImplementedError

    def connecting(self, now_ms: int) -> Will | None:
        """A CONNECT is about to be sent: the Will for it."""
        raise NotImplementedError

    def subscribed(self, now_ms: int) -> list[HostEffect]:
        """The broker has acknowledged all `filters`: publish STATE."""
        raise NotImplementedError

    def lost(self, now_ms: int) -> None:
        """The connection has ended. Nodes stay as they are; after the next `subscribed` each must prove it is alive."""
        raise NotImplementedError

    def disconnecting(self, now_ms: int, reason: str = "stopped") -> list[HostEffect]:
        """End the session on purpose: STATE offline with the time of now, then `Disconnect`."""
        raise NotImplementedError

    def received(self, topic: str, payload: bytes, now_ms: int, *, retained: bool = False) -> list[HostEffect]:
        """A message came. Never raises for what is in it."""
        raise NotImplementedError

    def tick(self, now_ms: int) -> list[HostEffect]:
        """Time has passed: reorder timeouts, rebirth requests that are due, nodes that did not answer."""
        raise NotImplementedError

    def rebirth(self, node: NodeId, reason: str, now_ms: int) -> list[HostEffect]:
        """Ask for a rebirth because a person or program wants it: at once, but within the limit of all requests."""
        raise NotImplementedError

    def command(self, node: NodeId, device: str, metrics: Sequence[Metric], now_ms: int) -> list[HostEffect]:
        """Write metrics of a node (`device` '') or device by name: an NCMD or DCMD, or `Refused` if it is not online,
        a metric is unknown or a value does not fit its datatype. Aliases are used where the node uses them.
        """
        raise NotImplementedError
