"""A world of Sparkplug edge nodes and one host over a simulated broker, and what must hold in it at any time.

`EdgeActor` and `HostActor` do with the sessions' effects what the programs do; `World.watch` checks each message
that an edge node publishes. A broken rule raises AssertionError where it happens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from simulators.sparkplug_broker import Client, SimulatedBroker

from shared.sparkplug import topics
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.edge_session import EdgeOptions, EdgeSession, EdgeState
from shared.sparkplug.effects import (
    Data,
    DeviceBorn,
    DeviceDied,
    Disconnect,
    EdgeEffect,
    HostEffect,
    NodeBorn,
    NodeDied,
    Publish,
    RebirthRequested,
)
from shared.sparkplug.host_session import HostOptions, HostSession
from shared.sparkplug.payload import BD_SEQ, REBIRTH, Metric
from shared.sparkplug.topics import MessageType, NodeId

OWN = {BD_SEQ, REBIRTH}
RECONNECT_MS = 1_000
"""No broker delivers a message after those of a later connection of its sender: longer than a message may be late."""


@dataclass
class EdgeActor:
    """A program with an edge node: `bd_seq` outlives it. Values say which metric they are of, so that none is mistaken.

    With `names` shuffled at each start the aliases of a metric differ from run to run.
    """

    world: World
    options: EdgeOptions
    devices: tuple[str, ...]
    bd_seq: int = -1
    session: EdgeSession = field(init=False)
    client: Client | None = None
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    sent: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """All values that each metric ever had."""
    counter: int = 0
    connect_at_ms: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """The program starts (again): all values are new."""
        self.session = EdgeSession(self.options, self.bd_seq)
        self.values, self.alive = {}, set()
        for device in ("", *self.devices):
            self._define(device)

    def _define(self, device: str) -> None:
        names = [f"m{number}" for number in range(3)]
        self.world.random.shuffle(names)
        self.values[device] = {name: self._value(device, name) for name in names}
        metrics = [Metric(name=n, datatype=DataType.String, value=v) for n, v in self.values[device].items()]
        if device:
            self.alive.add(device)
            self.act(self.session.set_device(device, metrics, self.world.now_ms))
        else:
            self.act(self.session.set_node(metrics, self.world.now_ms))

    def _value(self, device: str, name: str) -> str:
        self.counter += 1
        value = f"{device}/{name}/{self.counter}"
        self.sent.setdefault((device, name), set()).add(value)
        return value

    def crash(self) -> None:
        """The program ends without a word and starts again."""
        if self.client is not None:
            self.world.broker.cut(self.client.name)
        self.start()

    def change(self) -> None:
        """Some metric of the node or a device has a new value."""
        device = self.world.random.choice(["", *sorted(self.alive)])
        name = self.world.random.choice(sorted(self.values[device]))
        self.values[device][name] = value = self._value(device, name)
        self.act(self.session.data(device, [Metric(name=name, value=value)], self.world.now_ms))

    def toggle_device(self) -> None:
        """A device dies, or comes back with new values."""
        device = self.world.random.choice(self.devices)
        if device in self.alive:
            self.alive.discard(device)
            self.act(self.session.device_died(device, self.world.now_ms))
        else:
            self._define(device)

    def connect(self) -> None:
        """One attempt to connect."""
        world = self.world
        will = self.session.connecting(world.now_ms)
        self.bd_seq = self.session.bd_seq
        self.client = client = Client(str(self.options.node), self._deliver, self._closed, will)
        world.connected(self.options.node, will.payload)
        world.broker.connect(client)
        world.broker.subscribe(client, self.session.filters)
        self.act(self.session.subscribed(world.now_ms))

    def tick(self) -> None:
        """Time has passed."""
        if self.client is None and self.world.now_ms >= self.connect_at_ms:
            self.connect()
        self.act(self.session.tick(self.world.now_ms))

    def act(self, effects: list[EdgeEffect]) -> None:
        """Carry out effects."""
        for effect in effects:
            if isinstance(effect, Publish) and self.client is not None:
                self.world.broker.publish(self.client, effect)
            elif isinstance(effect, Disconnect) and self.client is not None:
                self.world.broker.disconnect(self.client, with_will=effect.with_will)

    def _deliver(self, topic: str, payload: bytes, retained: bool) -> None:
        self.act(self.session.received(topic, payload, self.world.now_ms, retained=retained))

    def _closed(self) -> None:
        self.client = None
        self.session.lost()
        self.connect_at_ms = self.world.now_ms + self.world.random.randrange(RECONNECT_MS, 3000)


@dataclass
class HostActor:
    """A program with a host: `view` is what it would store, device by device; None is offline (stale)."""

    world: World
    options: HostOptions
    session: HostSession = field(init=False)
    client: Client | None = None
    view: dict[NodeId, dict[str, dict[str, str] | None]] = field(default_factory=dict)
    requests: dict[tuple[int, NodeId], list[int]] = field(default_factory=dict)
    """When each run of the program asked each node for its births."""
    runs: int = 0
    connect_at_ms: int = 0

    def __post_init__(self) -> None:
        self.session = HostSession(self.options)

    def restart(self) -> None:
        """The program ends without a word; a new one knows which nodes were online."""
        if self.client is not None:
            self.world.broker.cut(self.client.name)
        self.runs += 1
        self.session = HostSession(self.options, [node for node, one in self.view.items() if one[""] is not None])

    def connect(self) -> None:
        """One attempt to connect."""
        will = self.session.connecting(self.world.now_ms)
        self.client = Client("host", self._deliver, self._closed, will)
        self.world.broker.connect(self.client)
        self.world.broker.subscribe(self.client, self.session.filters)
        self.act(self.session.subscribed(self.world.now_ms))

    def tick(self) -> None:
        """Time has passed."""
        if self.client is None and self.world.now_ms >= self.connect_at_ms:
            self.connect()
        self.act(self.session.tick(self.world.now_ms))

    def act(self, effects: list[HostEffect]) -> None:
        """Carry out effects, and check that they make sense one after the other."""
        for effect in effects:
            if isinstance(effect, Publish) and self.client is not None:
                self.world.broker.publish(self.client, effect)
            elif isinstance(effect, NodeBorn):
                self.view[effect.node] = {"": self._metrics(effect.node, "", effect.metrics)}
            elif isinstance(effect, DeviceBorn):
                assert self.view[effect.node][""] is not None, "a device is born on a node that is offline"
                self.view[effect.node][effect.device] = self._metrics(effect.node, effect.device, effect.metrics)
            elif isinstance(effect, Data):
                stored = self.view.get(effect.node, {}).get(effect.device)
                assert stored is not None, f"data of {effect.node}/{effect.device}, which is not online"
                stored.update(self._metrics(effect.node, effect.device, effect.metrics))
            elif isinstance(effect, NodeDied):
                self.view[effect.node] = dict.fromkeys(self.view.get(effect.node, {"": None}))
            elif isinstance(effect, DeviceDied):
                self.view[effect.node][effect.device] = None
            elif isinstance(effect, RebirthRequested):
                self.requests.setdefault((self.runs, effect.node), []).append(self.world.now_ms)

    def _metrics(self, node: NodeId, device: str, metrics: tuple[Metric, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in metrics:
            if one.name is not None and one.name not in OWN:
                sent = self.world.edges[node].sent[device, one.name]
                assert one.value in sent, f"{device}/{one.name} has a value that it never had: {one.value!r}"
                found[one.name] = str(one.value)
        return found

    def _deliver(self, topic: str, payload: bytes, retained: bool) -> None:
        self.act(self.session.received(topic, payload, self.world.now_ms, retained=retained))

    def _closed(self) -> None:
        self.client = None
        self.session.lost(self.world.now_ms)
        self.connect_at_ms = self.world.now_ms + self.world.random.randrange(100, 3000)


@dataclass
class World:
    """Edge nodes, a host and the broker between them. `now_ms` starts at a wall-clock time."""

    seed: int
    now_ms: int = 1_700_000_000_000
    edges: dict[NodeId, EdgeActor] = field(default_factory=dict)
    host: HostActor | None = None
    _seq: dict[NodeId, int] = field(default_factory=dict)
    _will: dict[NodeId, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.broker = SimulatedBroker(self.random, published=self.watch, now_ms=self.now_ms)

    def add_edge(self, options: EdgeOptions, devices: tuple[str, ...] = ("d1", "d2")) -> EdgeActor:
        """One more edge node."""
        self.edges[options.node] = actor = EdgeActor(self, options, devices)
        return actor

    def step(self, ms: int) -> None:
        """Let time pass."""
        self.now_ms += ms
        self.broker.run(self.now_ms)
        if self.host is not None:
            self.host.tick()
        for edge in self.edges.values():
            edge.tick()

    def run(self, ms: int, step_ms: int = 250, each: Callable[[], None] = lambda: None) -> None:
        """Let much time pass, calling `each` between the steps."""
        for _ in range(ms // step_ms):
            each()
            self.step(step_ms)

    # -- what edge nodes may publish ---------------------------------------------------------------

    def connected(self, node: NodeId, death: bytes) -> None:
        """A CONNECT of an edge node with this Will."""
        (metric,) = decode(death).metrics
        assert metric.name == BD_SEQ
        assert isinstance(metric.value, int)
        before = self._will.get(node, -1)
        assert metric.value == (before + 1) % 256, f"bdSeq {metric.value} follows {before}"
        self._will[node] = metric.value
        self._seq.pop(node, None)

    def watch(self, _client: str, message: Publish) -> None:
        """A message is published: does it follow the rules of its type?"""
        topic = topics.parse(message.topic)
        if not isinstance(topic, topics.Topic) or topic.type in {MessageType.NCMD, MessageType.DCMD}:
            return
        node, payload = topic.node_id, decode(message.payload)
        assert not message.retain
        if topic.type is MessageType.NDEATH:
            assert payload.seq is None
            return
        assert message.qos == 0
        assert payload.timestamp is not None
        if topic.type is MessageType.NBIRTH:
            assert payload.seq == 0
            assert next(one.value for one in payload.metrics if one.name == BD_SEQ) == self._will[node]
        else:
            assert node in self._seq, f"{topic.type} before NBIRTH on this connection"
            assert payload.seq == (self._seq[node] + 1) % 256, f"seq {payload.seq} follows {self._seq[node]}"
        assert payload.seq is not None
        self._seq[node] = payload.seq

    # -- what must hold in the end -----------------------------------------------------------------

    def differences(self) -> list[str]:
        """Where the host's view is not what the nodes have, now."""
        assert self.host is not None
        found = []
        for node, edge in self.edges.items():
            online = edge.session.state is EdgeState.ONLINE
            view = self.host.view.get(node)
            if not online:
                if view is not None and any(one is not None for one in view.values()):
                    found.append(f"{node} is offline, but not for the host")
                continue
            real = {device: edge.values[device] for device in ("", *edge.alive)}
            if view is None or {device: one for device, one in view.items() if one is not None} != real:
                found.append(f"{node}: host has {view}, node has {real}")
        return found
