"""One Sparkplug edge node on one MQTT connection at a time, without I/O (specification 3.0, chapters 5 and 6).

    will = session.connecting(now_ms, server)      # save session.bd_seq first, then CONNECT with this Will
    ... connected, and subscribed to session.filters ...
    act(session.subscribed(now_ms))                # births at once, or when the primary host is online
    act(session.received(topic, payload, now_ms))  # for each message
    act(session.data(device, metrics, now_ms))     # changed values
    act(session.tick(now_ms))                      # about every 100 ms
    session.lost()                                 # the connection is down, whoever ended it

`act` carries out `EdgeEffect`s in their order. The session keeps the current value of each metric, so it can be born
at any moment. It queues nothing: while `publishing` is False, `data` only changes current values, and a caller that
must not lose samples stores them and sends them later as historical.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from shared.sparkplug.effects import EdgeEffect, Will
from shared.sparkplug.payload import Metric
from shared.sparkplug.topics import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeOptions:
    """Options of an edge node.

    `primary_host` '' means: births do not wait for a host. `mqtt5` decides how the node disconnects.
    `data_datatypes` sends datatypes in DATA too: the specification advises against it, some libraries need it.
    `rebirth_interval_ms`: a rebirth request sooner after the last births is answered when this time is over.
    `host_wait_ms`: with several servers, how long to wait on each for the primary host.
    """

    node: NodeId
    primary_host: str = ""
    servers: int = 1
    mqtt5: bool = True
    aliases: bool = False
    data_datatypes: bool = False
    rebirth_interval_ms: int = 1_000
    host_wait_ms: int = 30_000


class EdgeState(str, Enum):
    """Where the session is."""

    OFFLINE = "offline"
    CONNECTING = "connecting"
    WAITING = "waiting for the primary host"
    ONLINE = "online"

    __str__ = str.__str__


class EdgeSession:
    """The session of one edge node. `bd_seq` is that of the last CONNECT, as it was saved; -1 for the first ever."""

    def __init__(self, options: EdgeOptions, bd_seq: int = -1) -> None:
        raise NotImplementedError

    # -- what there is -----------------------------------------------------------------------------

    @property
    def bd_seq(self) -> int:
        """bdSeq of the current or last CONNECT; the caller saves it whenever `connecting` has changed it."""
        raise NotImplementedError

    @property
    def state(self) -> EdgeState:
        """Where the session is."""
        raise NotImplementedError

    @property
    def publishing(self) -> bool:
        """Whether `data` is published now: born, and no rebirth is due."""
        raise NotImplementedError

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe, all at QoS 1 in one SUBSCRIBE, before `subscribed`."""
        raise NotImplementedError

    # -- metrics -----------------------------------------------------------------------------------

    def set_node(self, metrics: Sequence[Metric], now_ms: int) -> list[EdgeEffect]:
        """Define all metrics of the node itself, with datatypes, current values and properties.

        While online a change of the definitions leads to a rebirth. Raises ValueError for metrics without name,
        datatype or twice the same name, and for `bdSeq` and `Node Control/Rebirth`, which the session adds.
        """
        raise NotImplementedError

    def set_device(self, device: str, metrics: Sequence[Metric], now_ms: int) -> list[EdgeEffect]:
        """Define a device and all its metrics: it is alive from now on. A DBIRTH, if online. Errors as `set_node`."""
        raise NotImplementedError

    def device_died(self, device: str, now_ms: int) -> list[EdgeEffect]:
        """The connection to the device is lost: a DDEATH, if online. `set_device` brings it back."""
        raise NotImplementedError

    def data(self, device: str, metrics: Iterable[Metric], now_ms: int) -> list[EdgeEffect]:
        """New values of metrics that are defined; name, timestamp and value are enough. One NDATA or DDATA, if
        `publishing`; values that are not historical become the current ones in any case.

        Raises ValueError for a metric or device that is not defined, and for a value that does not fit the datatype.
        """
        raise NotImplementedError

    def rebirth(self, now_ms: int) -> list[EdgeEffect]:
        """Send all births again, as after a rebirth request."""
        raise NotImplementedError

    # -- the connection ----------------------------------------------------------------------------

    def connecting(self, now_ms: int, server: str = "") -> Will:
        """A CONNECT is about to be sent to this server: the next bdSeq, and the Will for it."""
        raise NotImplementedError

    def subscribed(self, now_ms: int) -> list[EdgeEffect]:
        """The broker has acknowledged all `filters`."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection has ended."""
        raise NotImplementedError

    def received(self, topic: str, payload: bytes, now_ms: int, *, retained: bool = False) -> list[EdgeEffect]:
        """A message came: a command, or the STATE of the primary host. Never raises for what is in it."""
        raise NotImplementedError

    def tick(self, now_ms: int) -> list[EdgeEffect]:
        """Time has passed: a rebirth that is due, the next server if the primary host does not come."""
        raise NotImplementedError

    def disconnecting(self, now_ms: int, reason: str = "stopped") -> list[EdgeEffect]:
        """End the session on purpose: NDEATH, then `Disconnect`."""
        raise NotImplementedError
