"""What a session asks its caller to do, or tells it. Sessions do no I/O: each call returns a list of these, in order.

`Will`, `Publish`, `Disconnect` are for the MQTT connection; `Refused` is for the log and the counters. What only one
role has stands in its own list below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, Union

from shared.sparkplug.payload import Metric
from shared.sparkplug.topics import NodeId

MAX_SHOWN = 300
"""Characters of a topic that a refusal shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """The Will of the next CONNECT: always QoS 1. `retain` is False for an edge node, True for a host."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Publish this message now, before anything that follows it in the list."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """End the connection, after all messages before it were sent.

    `with_will`: the broker must publish the Will: MQTT 5 by reason code 0x04, 3.1.1 by closing without DISCONNECT.
    `next_server`: connect to the next server of the list (the same one again if there is only one).
    """

    reason: str
    with_will: bool
    next_server: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A message, or a metric of it, was refused; nothing else follows from it. `topic` is escaped and cut."""

    topic: str
    reason: str


def refused(topic: str, reason: str) -> Refused:
    """`Refused` with a topic that is safe to log."""
    return Refused(topic=ascii(topic[:MAX_SHOWN])[1:-1], reason=reason)


# -- edge node -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A host asks to write these metrics: of the node (`device` '') or of a device.

    Each has its name, the datatype of its birth and a value that fits it (None is null). Whether the write is allowed
    is the caller's decision. `timestamp` (ms) is the host's, None if it sent none.
    """

    device: str
    metrics: tuple[Metric, ...]
    timestamp: int | None


EdgeEffect: TypeAlias = Union[Publish, Disconnect, Write, Refused]  # noqa: UP007


# -- host application ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBorn:
    """An NBIRTH: the node is online, all its devices are offline until their DBIRTH.

    `timestamp` and those of the metrics are the sender's (ms, None if left out); order and staleness never follow from
    them. `ahead_ms` is how far the latest of them is in the host's future, 0 within the tolerance. `asked` says that
    the host had requested this birth. `alive` says that the node was online before (a rebirth).
    """

    node: NodeId
    bd_seq: int | None
    timestamp: int | None
    metrics: tuple[Metric, ...]
    ahead_ms: int = 0
    asked: bool = False
    alive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBorn:
    """A DBIRTH: the device is online with exactly these metrics. `gap`: messages of its node were lost before it."""

    node: NodeId
    device: str
    timestamp: int | None
    metrics: tuple[Metric, ...]
    ahead_ms: int = 0
    gap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """NDATA (`device` '') or DDATA. Every metric has its name, its datatype and a typed value, None for null.

    Historical metrics are marked `is_historical`: store them, but they are not the current value.
    `gap`: messages before this one were lost, a rebirth has been requested; the values themselves are right.
    """

    node: NodeId
    device: str
    timestamp: int | None
    metrics: tuple[Metric, ...]
    ahead_ms: int = 0
    gap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDied:
    """The node and all its `devices` are offline since `at_ms` (the host's time), their metrics are stale.

    `presumed`: no NDEATH came, the node did not answer after the host had been disconnected.
    """

    node: NodeId
    devices: tuple[str, ...]
    at_ms: int
    presumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDied:
    """A DDEATH: the device is offline and its metrics are stale. `at_ms` is the time in the DDEATH, else the host's."""

    node: NodeId
    device: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RebirthRequested:
    """The NCMD before this in the list asks the node for its births, because of `reason`."""

    node: NodeId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flapping:
    """The node is born again and again without being asked: `births` times within the last `window_ms`.

    `two_nodes`: old bdSeq numbers return, so probably two nodes have this id. Reported once until it has been quiet.
    """

    node: NodeId
    births: int
    window_ms: int
    two_nodes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStateSeen:
    """The STATE of another host application on this server. `timestamp` is in ms."""

    host: str
    online: bool
    timestamp: int


HostEffect: TypeAlias = Union[  # noqa: UP007
    Publish, Disconnect, Refused, NodeBorn, DeviceBorn, Data, NodeDied, DeviceDied, RebirthRequested, Flapping,
    HostStateSeen,
]  # fmt: skip
