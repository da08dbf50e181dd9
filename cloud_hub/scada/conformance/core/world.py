"""What is known of clients, edge nodes and hosts so far. Bounded: a hostile namespace cannot fill it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from cloud_hub.scada.conformance.core.events import Connect, Disconnect
from cloud_hub.scada.conformance.core.names import NodeKey

MAX_NODES = 2000
MAX_CLIENTS = 4000
MAX_METRICS = 20_000
"""Metrics that are remembered of a node or device."""
MAX_DEVICES = 2000


@dataclass(slots=True)
class HostState:
    """STATE of a host as one client was told. `online` follows the timestamps; `online_ms` is the last valid online."""

    online: bool = False
    last_ms: int | None = None
    online_ms: int | None = None
    stale_online: bool = False
    told_offline: bool = False


@dataclass(slots=True)
class Client:
    """A TCP connection. `node` or `host` are set when it acts as one."""

    key: str
    connect: Connect
    accepted: bool = False
    filters: list[tuple[str, int]] = field(default_factory=list)
    published: int = 0
    node: NodeKey | None = None
    host: str = ""
    states: dict[str, HostState] = field(default_factory=dict)
    ndeath_ms: int | None = None
    state_births: int = 0
    state_death_ms: int | None = None
    state_death_time: int | None = None
    disconnect: Disconnect | None = None
    leave_ms: int | None = None
    stay_ms: int | None = None
    restore_ms: int | None = None
    born: bool = False
    open: bool = True


@dataclass(slots=True)
class Known:
    """A metric of a birth."""

    datatype: int
    aliased: bool
    value: object = None


@dataclass(slots=True)
class Source:
    """A node or a device: its metrics by name, from its birth."""

    metrics: dict[str, Known] = field(default_factory=dict)
    alive: bool = False


@dataclass(slots=True)
class Definition:
    """A template definition: names of its members and parameters."""

    members: frozenset[str]
    parameters: frozenset[str]


@dataclass(slots=True)
class Rebirth:
    """A rebirth request that the node has received, and what has come since."""

    at_ms: int
    devices: frozenset[str]
    late_data: str = ""
    born_ms: int | None = None
    reborn: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Gap:
    """Missing sequence numbers of a node, and what the host did about them."""

    at_ms: int
    missing: set[int]
    filled_ms: int | None = None
    request_ms: int | None = None


@dataclass(slots=True)
class Node:
    """An edge node. `seen_birth` is False until its first NBIRTH, so that a late watcher judges nothing too early."""

    key: NodeKey
    client: str = ""
    seen_birth: bool = False
    born: bool = False
    own: Source = field(default_factory=Source)
    devices: dict[str, Source] = field(default_factory=dict)
    aliases: dict[int, tuple[str, str]] = field(default_factory=dict)
    templates: dict[str, Definition] = field(default_factory=dict)
    bdseq: int | None = None
    bdseqs: set[int] = field(default_factory=set)
    will_bdseq: int | None = None
    seq: int | None = None
    data_since_birth: bool = False
    due_devices: set[str] = field(default_factory=set)
    rebirth: Rebirth | None = None
    gap: Gap | None = None

    def source(self, device: str) -> Source | None:
        """The node itself for '', else a device; None for a device without DBIRTH."""
        return self.own if not device else self.devices.get(device)


class World:
    """Clients by connection, nodes by broker and descriptor, each bounded, the longest unseen is dropped first."""

    def __init__(self) -> None:
        self.clients: OrderedDict[str, Client] = OrderedDict()
        self.nodes: OrderedDict[NodeKey, Node] = OrderedDict()
        self.dropped = 0

    def node(self, key: NodeKey) -> Node:
        """The node with this key, made when it is new."""
        node = self.nodes.get(key)
        if node is None:
            node = self.nodes[key] = Node(key=key)
            if len(self.nodes) > MAX_NODES:
                self.nodes.popitem(last=False)
                self.dropped += 1
        self.nodes.move_to_end(key)
        return node

    def connect(self, event: Connect) -> Client:
        """A new connection."""
        client = self.clients[event.client] = Client(key=event.client, connect=event)
        if len(self.clients) > MAX_CLIENTS:
            self.clients.popitem(last=False)
            self.dropped += 1
        return client

    def others(self, client: Client, *, node: NodeKey | None = None, host: str = "") -> list[Client]:
        """Other open connections that act as the same edge node (on any broker) or as the same host (on this one)."""
        return [
            other
            for other in self.clients.values()
            if other is not client and other.open and other.accepted
            and ((node is not None and other.node is not None and str(other.node) == str(node))
                 or (host and other.host == host and other.connect.server == client.connect.server))
        ]  # fmt: skip
