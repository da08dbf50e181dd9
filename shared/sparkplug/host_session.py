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

from shared.errors import WireError
from shared.sparkplug import host_commands, topics
from shared.sparkplug.effects import Disconnect, HostEffect, NodeDied, Will, refused
from shared.sparkplug.host_node import Liveness, Node, NodeStatus
from shared.sparkplug.host_nodes import NodeTable
from shared.sparkplug.host_receiver import Receiver
from shared.sparkplug.host_state import OwnState
from shared.sparkplug.payload import Metric
from shared.sparkplug.rebirth_queue import RebirthQueue
from shared.sparkplug.topics import MessageType, NodeId, StateTopic

__all__ = ["HostOptions", "HostSession", "Liveness", "NodeStatus"]

GRACE_MS = 5_000
"""After a (re)connect: nodes that lost the broker too are born by themselves in this time."""
TRIES = 3
"""Rebirth requests without an answer after which a node counts as dead; only after the host was disconnected."""

_COMMANDS = frozenset({MessageType.NCMD, MessageType.DCMD})


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """Options of a host application.

    `host_id` '' is a host without STATE: it watches and may send commands. `groups` empty are all groups.
    Rebirth requests to one node are `rebirth_first_ms` apart, then twice as long each, up to `rebirth_limit_ms`; all
    requests together are at most `rebirth_burst` at once and `rebirth_per_s` a second afterwards. Timestamps more than
    `future_ms` ahead of the host are flagged.
    """

    host_id: str = ""
    groups: tuple[str, ...] = ()
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


class HostSession:
    """The session of one host on one server. `known` are nodes of earlier runs that were online: they are asked for
    their births, and reported as dead if they do not answer.

    Raises ValueError for ids that no topic may hold.
    """

    def __init__(self, options: HostOptions, known: Iterable[NodeId] = ()) -> None:
        self._options = options
        self._state = OwnState(options.host_id)
        self._queue = RebirthQueue(options.rebirth_per_s, options.rebirth_burst)
        self._nodes = NodeTable(
            options.max_nodes, options.max_waiting, options.max_waiting_bytes,
            options.rebirth_first_ms, options.rebirth_limit_ms, self._queue.forget,
        )  # fmt: skip
        self._receiver = Receiver(
            self._nodes, self._queue, options.reorder_timeout_ms, options.future_ms,
            options.max_devices, options.max_metrics,
        )  # fmt: skip
        self._filters = (*self._state.filters, *topics.host_filters(options.groups))
        self._verify: list[Node] = []
        self._verify_ms = self._ticked_ms = 0
        for one in known:
            self._nodes.add_known(one)

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe, all at QoS 1 in one SUBSCRIBE, before `subscribed`."""
        return self._filters

    def nodes(self) -> list[NodeStatus]:
        """All nodes that the session knows, as of the last `tick`."""
        return [one.status(self._ticked_ms) for one in self._nodes]

    # -- the connection ----------------------------------------------------------------------------

    def connecting(self, now_ms: int) -> Will | None:
        """A CONNECT is about to be sent: the Will for it."""
        return self._state.connecting(now_ms)

    def subscribed(self, now_ms: int) -> list[HostEffect]:
        """The broker has acknowledged all `filters`: publish STATE. Nodes of before must prove that they live."""
        self._queue.connected = True
        self._verify = [one for one in self._nodes if one.liveness is Liveness.ONLINE or one.expected_back]
        self._verify_ms = now_ms
        for one in self._verify:
            one.expected_back, one.born_since = True, False
            one.gap = True  # it may have been born with other aliases, and its seq may still seem to fit
        return [*self._state.subscribed()]

    def lost(self, now_ms: int) -> None:
        """The connection has ended. Nodes stay as they are until the next `subscribed`."""
        self._ticked_ms = now_ms
        self._queue.connected = False
        self._state.lost()

    def disconnecting(self, now_ms: int, reason: str = "stopped") -> list[HostEffect]:
        """End the session on purpose: STATE offline with the time of now, then `Disconnect`."""
        death = self._state.disconnecting(now_ms)
        self.lost(now_ms)
        return [*death, Disconnect(reason=reason, with_will=False, next_server=False)]

    # -- messages and time -------------------------------------------------------------------------

    def received(self, topic: str, payload: bytes, now_ms: int, *, retained: bool = False) -> list[HostEffect]:
        """A message came. Never raises for what is in it."""
        try:
            parsed = topics.parse(topic)
            if isinstance(parsed, StateTopic):
                return [*self._state.received(parsed, payload, now_ms)]
            if parsed.type in _COMMANDS:
                return []
            return self._receiver.received(parsed, payload, now_ms, retained=retained)
        except WireError as error:
            return [refused(topic, error.reason)]

    def tick(self, now_ms: int) -> list[HostEffect]:
        """Time has passed: reorder timeouts, rebirth requests that are due, nodes that did not answer."""
        self._ticked_ms = now_ms
        effects = [*self._state.tick(now_ms), *self._receiver.tick(now_ms)]
        if self._queue.connected:
            effects += self._ask_for_proof(now_ms)
            effects += self._presume_dead(now_ms)
            effects += self._queue.run(now_ms)
        return effects

    def _ask_for_proof(self, now_ms: int) -> list[HostEffect]:
        if not self._verify or 0 <= now_ms - self._verify_ms < GRACE_MS:
            return []
        effects: list[HostEffect] = []
        for node in self._verify:
            if not node.born_since and node.liveness in {Liveness.ONLINE, Liveness.UNKNOWN}:
                effects += self._queue.want(node, "the host was not connected", now_ms)
                self._nodes.silent[node.id] = node
        self._verify = []
        return effects

    def _presume_dead(self, now_ms: int) -> list[HostEffect]:
        effects: list[HostEffect] = []
        for node in list(self._nodes.silent.values()):
            silent = node.expected_back and node.can_rebirth
            if silent and (node.unanswered < TRIES or not node.backoff.due(now_ms)):
                continue
            del self._nodes.silent[node.id]
            if silent:
                devices = node.died(Liveness.OFFLINE)
                self._queue.forget(node)
                effects.append(NodeDied(node=node.id, devices=devices, at_ms=now_ms, presumed=True))
        return effects

    # -- what the host wants -----------------------------------------------------------------------

    def rebirth(self, node: NodeId, reason: str, now_ms: int) -> list[HostEffect]:
        """Ask for a rebirth because a person or program wants it: at once, but within the limit of all requests."""
        return self._queue.demand(self._nodes.find_or_add(node, now_ms), reason, now_ms)

    def command(self, node: NodeId, device: str, metrics: Sequence[Metric], now_ms: int) -> list[HostEffect]:
        """Write metrics of a node (`device` '') or device by name: an NCMD or DCMD, or `Refused` if it is not online,
        a metric is unknown or a value does not fit its datatype: then nothing is sent. Aliases are used where the node
        uses them.
        """
        if not self._queue.connected:
            return [refused(str(node), "the host is not connected; try again later")]
        return [host_commands.command(self._nodes.get(node), node, device, metrics, now_ms)]
