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

from shared.errors import WireError
from shared.sparkplug import edge_commands, state, topics
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.edge_metrics import NODE, EdgeMetrics, time_of
from shared.sparkplug.effects import Disconnect, EdgeEffect, Publish, Will, refused
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import BD_SEQ, REBIRTH, Metric, Payload
from shared.sparkplug.topics import MessageType, NodeId, StateTopic

DEATH_QOS = 1
LAST_SEQ = 255


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
    """The session of one edge node. `bd_seq` is that of the last CONNECT, as it was saved; -1 for the first ever.

    Raises ValueError for ids that no topic may hold.
    """

    def __init__(self, options: EdgeOptions, bd_seq: int = -1) -> None:
        topics.check_id(options.node.group, "group")
        topics.check_id(options.node.node, "node id")
        self._options = options
        self._bd_seq = bd_seq
        self._state = EdgeState.OFFLINE
        self._metrics = EdgeMetrics(aliases=options.aliases)
        self._host = _PrimaryHost(options.primary_host)
        self._seq = 0
        self._since_ms = 0
        self._rebirth_due = False

    # -- what there is -----------------------------------------------------------------------------

    @property
    def bd_seq(self) -> int:
        """bdSeq of the current or last CONNECT; the caller saves it whenever `connecting` has changed it."""
        return self._bd_seq

    @property
    def state(self) -> EdgeState:
        """Where the session is."""
        return self._state

    @property
    def publishing(self) -> bool:
        """Whether `data` is published now: born, and no rebirth is due."""
        return self._state is EdgeState.ONLINE and not self._rebirth_due

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe, all at QoS 1 in one SUBSCRIBE, before `subscribed`."""
        return (*topics.command_filters(self._options.node), *self._host.filters)

    # -- metrics -----------------------------------------------------------------------------------

    def set_node(self, metrics: Sequence[Metric], now_ms: int) -> list[EdgeEffect]:
        """Define all metrics of the node itself, with datatypes, current values and properties.

        While online a change leads to a rebirth. Raises ValueError for metrics without name, datatype or twice the
        same name, and for `bdSeq` and `Node Control/Rebirth`, which the session adds.
        """
        return self.rebirth(now_ms) if self._metrics.define(NODE, metrics) else []

    def set_device(self, device: str, metrics: Sequence[Metric], now_ms: int) -> list[EdgeEffect]:
        """Define a device and all its metrics: it is alive from now on. A DBIRTH, if online. Errors as `set_node`."""
        topics.check_id(device, "device id")
        changed = self._metrics.define(device, metrics)
        return [self._device_birth(device, now_ms)] if changed and self.publishing else []

    def device_died(self, device: str, now_ms: int) -> list[EdgeEffect]:
        """The connection to the device is lost: a DDEATH, if online. `set_device` brings it back."""
        if not self._metrics.died(device) or not self.publishing:
            return []
        return [self._message(MessageType.DDEATH, device, (), now_ms)]

    def data(self, device: str, metrics: Iterable[Metric], now_ms: int) -> list[EdgeEffect]:
        """New values of metrics that are defined; name and value are enough. One NDATA or DDATA, if `publishing`;
        values that are not historical become the current ones in any case.

        Raises ValueError for a metric or device that is not defined, and for a value that does not fit the datatype.
        """
        updates = self._metrics.updates(device, metrics, now_ms)
        effects: list[EdgeEffect] = []
        if updates and self.publishing and self._metrics.is_alive(device):
            named = updates if not self._options.aliases else [_without_name(one) for one in updates]
            kind = MessageType.DDATA if device else MessageType.NDATA
            effects.append(self._message(kind, device, tuple(named), now_ms))
        self._metrics.keep(device, updates)
        return effects

    def rebirth(self, now_ms: int) -> list[EdgeEffect]:
        """Send all births again, as after a rebirth request: no data until then."""
        if self._state is not EdgeState.ONLINE:
            return []
        self._rebirth_due = True
        return self.tick(now_ms)

    # -- the connection ----------------------------------------------------------------------------

    def connecting(self, now_ms: int, server: str = "") -> Will:
        """A CONNECT is about to be sent to this server: the next bdSeq, and the Will for it."""
        self._bd_seq = (self._bd_seq + 1) % (LAST_SEQ + 1)
        self._host.connecting(server)
        self._enter(EdgeState.CONNECTING, now_ms)
        death = self._death(now_ms)
        return Will(topic=death.topic, payload=death.payload, retain=False)

    def subscribed(self, now_ms: int) -> list[EdgeEffect]:
        """The broker has acknowledged all `filters`."""
        if self._host.online:
            return self._births(now_ms)
        self._enter(EdgeState.WAITING, now_ms)
        return []

    def lost(self) -> None:
        """The connection has ended."""
        self._state = EdgeState.OFFLINE

    def received(self, topic: str, payload: bytes, now_ms: int, *, retained: bool = False) -> list[EdgeEffect]:
        """A message came: a command, or the STATE of the primary host. Never raises for what is in it."""
        try:
            parsed = topics.parse(topic)
            if isinstance(parsed, StateTopic):
                return self._host_state(parsed, payload, now_ms)
            return self._command(parsed, payload, now_ms, retained)
        except WireError as error:
            return [refused(topic, error.reason)]

    def tick(self, now_ms: int) -> list[EdgeEffect]:
        """Time has passed: a rebirth that is due, the next server if the primary host does not come."""
        since = now_ms - self._since_ms
        if self._state is EdgeState.ONLINE and self._rebirth_due:
            early = 0 <= since < self._options.rebirth_interval_ms
            return [] if early else self._births(now_ms)
        if self._state is EdgeState.WAITING and self._options.servers > 1 and since >= self._options.host_wait_ms:
            return self._leave(now_ms, "the primary host is not on this server", next_server=True)
        return []

    def disconnecting(self, now_ms: int, reason: str = "stopped") -> list[EdgeEffect]:
        """End the session on purpose: NDEATH, then `Disconnect`."""
        return [] if self._state is EdgeState.OFFLINE else self._leave(now_ms, reason, next_server=False)

    # -- messages that come ------------------------------------------------------------------------

    def _host_state(self, topic: StateTopic, payload: bytes, now_ms: int) -> list[EdgeEffect]:
        if topic.host != self._options.primary_host:
            return [refused(str(topic), "this is not the primary host of this node")]
        if problem := self._host.heard(state.parse(payload)):
            return [refused(str(topic), problem)]
        if self._host.online:
            return self._births(now_ms) if self._state is EdgeState.WAITING else []
        alone = self._state is EdgeState.WAITING and self._options.servers == 1  # no other server to try
        if self._state in {EdgeState.OFFLINE, EdgeState.CONNECTING} or alone:
            return []
        return self._leave(now_ms, "the primary host is offline", next_server=True)

    def _command(self, topic: topics.Topic, payload: bytes, now_ms: int, retained: bool) -> list[EdgeEffect]:
        if topic.node_id != self._options.node or topic.type not in {MessageType.NCMD, MessageType.DCMD}:
            return [refused(str(topic), "this is no command for this node")]
        if retained:
            return [refused(str(topic), "a retained command is old; commands must not be retained")]
        if self._state is not EdgeState.ONLINE:
            return [refused(str(topic), "the node is not born yet; write after its birth")]
        command = edge_commands.read(self._metrics, topic, payload)
        effects: list[EdgeEffect] = [*command.refused]
        if command.write is not None:
            effects.append(command.write)
        return [*effects, *self.rebirth(now_ms)] if command.rebirth else effects

    # -- messages that go --------------------------------------------------------------------------

    def _births(self, now_ms: int) -> list[EdgeEffect]:
        """NBIRTH with seq 0, then a DBIRTH for each device that is alive."""
        self._enter(EdgeState.ONLINE, now_ms)
        self._seq = 0
        own = (
            _bd_seq_metric(self._bd_seq, now_ms, self._metrics.alias(NODE, BD_SEQ)),
            Metric(name=REBIRTH, timestamp=now_ms, datatype=DataType.Boolean, value=False),
        )
        metrics = tuple(sorted(own + self._metrics.birth(NODE, now_ms), key=time_of))
        births: list[EdgeEffect] = [self._message(MessageType.NBIRTH, NODE, metrics, now_ms)]
        return births + [self._device_birth(one, now_ms) for one in self._metrics.alive]

    def _device_birth(self, device: str, now_ms: int) -> Publish:
        return self._message(MessageType.DBIRTH, device, self._metrics.birth(device, now_ms), now_ms)

    def _message(self, kind: MessageType, device: str, metrics: tuple[Metric, ...], now_ms: int) -> Publish:
        """A message with the next seq; seq counts only what could be encoded."""
        is_birth = kind in {MessageType.NBIRTH, MessageType.DBIRTH}
        payload = Payload(timestamp=now_ms, metrics=metrics, seq=self._seq)
        encoded = encode(payload, with_datatypes=is_birth or self._options.data_datatypes)
        self._seq = (self._seq + 1) % (LAST_SEQ + 1)
        return Publish(topic=str(topics.node_topic(kind, self._options.node, device)), payload=encoded)

    def _death(self, now_ms: int) -> Publish:
        payload = Payload(timestamp=now_ms, metrics=(_bd_seq_metric(self._bd_seq, now_ms),))
        topic = topics.node_topic(MessageType.NDEATH, self._options.node)
        return Publish(topic=str(topic), payload=encode(payload), qos=DEATH_QOS)

    def _leave(self, now_ms: int, reason: str, *, next_server: bool) -> list[EdgeEffect]:
        """Disconnect. A node that is not born yet publishes nothing (its birth must come first): its Will does."""
        born = self._state is EdgeState.ONLINE
        self._state = EdgeState.OFFLINE
        with_will = self._options.mqtt5 or not born
        end = Disconnect(reason=reason, with_will=with_will, next_server=next_server)
        return [self._death(now_ms), end] if born else [end]

    def _enter(self, new: EdgeState, now_ms: int) -> None:
        self._state, self._since_ms, self._rebirth_due = new, now_ms, False


class _PrimaryHost:
    """Whether the primary host is online on the server of this connection. Without one it counts as online.

    The newest timestamp is kept per server, over reconnects: a host connects to each of its servers at another time.
    """

    def __init__(self, host: str) -> None:
        self._host, self._server = host, ""
        self._newest: dict[str, int] = {}
        self.online = not host
        self.filters = (str(StateTopic(topics.check_id(host, "host id"))),) if host else ()

    def connecting(self, server: str) -> None:
        """Nothing is known on a new connection until STATE comes."""
        self._server, self.online = server, not self._host

    def heard(self, said: state.HostState) -> str:
        """Take a STATE; returns why it does not count, or ''."""
        newest = self._newest.get(self._server)
        if newest is not None and said.timestamp < newest:
            return f"STATE of {said.timestamp} is older than that of {newest}"
        self._newest[self._server], self.online = said.timestamp, said.online
        return ""


def _bd_seq_metric(number: int, now_ms: int, alias: int | None = None) -> Metric:
    return Metric(name=BD_SEQ, alias=alias, timestamp=now_ms, datatype=DataType.Int64, value=number)


def _without_name(metric: Metric) -> Metric:
    return Metric(
        alias=metric.alias, timestamp=metric.timestamp, datatype=metric.datatype, value=metric.value,
        is_historical=metric.is_historical, is_transient=metric.is_transient, properties=metric.properties,
        metadata=metric.metadata,
    )  # fmt: skip
