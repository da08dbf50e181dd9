"""Takes the events of a namespace one after the other and gives a verdict for each statement."""

from __future__ import annotations

from dataclasses import dataclass

from cloud_hub.scada.conformance.core.commands import CommandJudge, asks_rebirth
from cloud_hub.scada.conformance.core.complex_rules import COMPLEX_RULES
from cloud_hub.scada.conformance.core.deadlines import DEFAULT, Deadlines
from cloud_hub.scada.conformance.core.edge import EdgeJudge
from cloud_hub.scada.conformance.core.edge_rules import EDGE_RULES, PRIMARY
from cloud_hub.scada.conformance.core.events import (
    AnyEvent,
    Closed,
    Confirmed,
    Connect,
    ConnectAck,
    Delivery,
    Disconnect,
    Publish,
    Subscribe,
    Tick,
)  # fmt: skip
from cloud_hub.scada.conformance.core.fields import Unreadable, read_payload
from cloud_hub.scada.conformance.core.host import HostJudge
from cloud_hub.scada.conformance.core.host_rules import BROKER_RULES, HOST_RULES
from cloud_hub.scada.conformance.core.ledger import Ledger
from cloud_hub.scada.conformance.core.names import EDGE_TYPES, STATE, Name, NodeKey, read_topic
from cloud_hub.scada.conformance.core.ordering import OrderJudge
from cloud_hub.scada.conformance.core.primary import PrimaryJudge
from cloud_hub.scada.conformance.core.rebirths import RebirthJudge
from cloud_hub.scada.conformance.core.report import Verdict, verdicts
from cloud_hub.scada.conformance.core.rules import Need, Role
from cloud_hub.scada.conformance.core.sessions import EdgeSessionJudge, will_name
from cloud_hub.scada.conformance.core.state import read_state
from cloud_hub.scada.conformance.core.world import Client, World

ALL_RULES = (*EDGE_RULES, *COMPLEX_RULES, *HOST_RULES, *BROKER_RULES)
MAX_FILTERS = 1000
MAX_OTHERS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is judged. '' for group or node means all; `servers` is how many brokers are watched.

    For a host `node` is the name of the simulated edge node.
    """

    role: Role
    group: str = ""
    node: str = ""
    host_id: str = ""
    servers: int = 1
    reorder_timeout_ms: int = 2000
    deadlines: Deadlines = DEFAULT


class Checker:
    """The verdicts on one role in one namespace. Feed it with `observe` in the order of time."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.others: set[str] = set()
        """Edge nodes outside the scope that publish, as group/node, at most MAX_OTHERS."""
        self.ledger = Ledger(ALL_RULES, scope.role)
        self.world = World()
        self.messages = 0
        self.excuses: dict[str, str] = {}
        """Rules that a stimulus has found not to apply, and why."""
        unjudged = Ledger((), scope.role)
        edge = self.ledger if scope.role is Role.EDGE else unjudged
        host = self.ledger if scope.role is Role.HOST else unjudged
        self._rebirths = RebirthJudge(self.world, edge, scope.deadlines)
        self._edge = EdgeJudge(self.world, edge, self._rebirths)
        self._unjudged = EdgeJudge(self.world, unjudged, RebirthJudge(self.world, unjudged, scope.deadlines))
        self._sessions = EdgeSessionJudge(self.world, edge)
        self.primary = PrimaryJudge(self.world, edge, scope.host_id, scope.servers, scope.deadlines)
        self._host = HostJudge(self.world, host, scope.host_id, scope.servers, scope.deadlines)
        self._commands = CommandJudge(self.world, host)
        self._ordering = OrderJudge(self.world, host, scope.reorder_timeout_ms, scope.deadlines)

    def verdicts(self) -> list[Verdict]:
        """The verdict on each statement about the role, so far."""
        self.ledger.excuses.clear()
        self.ledger.excuses.update({**excuses(self.scope, self.world), **self.excuses})
        return verdicts(self.ledger)

    def observe(self, event: AnyEvent) -> None:
        """Judge one event."""
        if isinstance(event, Tick):
            self._tick(event.at_ms)
        elif isinstance(event, Publish):
            self._published(event)
        elif isinstance(event, Confirmed):
            self.ledger.judge(event.rule, event.kept, event.at_ms, "the host's display", event.detail)
        elif isinstance(event, Connect):
            self._connected(self.world.connect(event))
        else:
            client = self.world.clients.get(event.client)
            if client is not None:
                self._of_client(event, client)

    def _tick(self, at_ms: int) -> None:
        for judge in (self._rebirths, self.primary, self._host, self._ordering):
            judge.tick(at_ms)

    # -- connections -------------------------------------------------------------------------------

    def _connected(self, client: Client) -> None:
        name = will_name(client.connect)
        if name is None:
            return
        if name.type == STATE:
            if self._host.concerns(name.node):
                self._host.connected(client, name)
        elif self._within(name):
            self._sessions.connected(client, name)
            self.primary.connected(client, client.connect.at_ms)

    def _of_client(self, event: AnyEvent, client: Client) -> None:
        if isinstance(event, ConnectAck):
            client.accepted = event.accepted
            if event.accepted and client.node is not None:
                self._sessions.accepted(client)
            elif event.accepted and client.host:
                self._host.accepted(client)
        elif isinstance(event, Subscribe):
            client.filters.extend(event.filters[: MAX_FILTERS - len(client.filters)])
        elif isinstance(event, Disconnect):
            client.disconnect = event
        elif isinstance(event, Closed) and client.open:
            client.open = False
            self._ended(client, event.at_ms)
        elif isinstance(event, Delivery):
            self._delivered(event, client)

    def _ended(self, client: Client, at_ms: int) -> None:
        if client.node is not None:
            self.primary.ended(client, at_ms)
            self._sessions.ended(client, at_ms)
            node = self.world.nodes.get(client.node)
            if node is not None and node.client == client.key:
                node.born, node.rebirth, node.seq = False, None, None
        elif client.host:
            self._host.ended(client, at_ms)

    def _delivered(self, event: Delivery, client: Client) -> None:
        name = read_topic(event.topic)
        if name is None:
            return
        if name.type == STATE:
            state, _ = read_state(event.payload)
            if client.node is not None:
                self.primary.state_delivered(client, name.node, state, event.at_ms)
            elif client.host:
                self._host.state_delivered(client, name.node, state, event.at_ms)
        elif name.type == "NCMD" and client.node is not None:
            self._rebirth_request(event, name)

    # -- messages ----------------------------------------------------------------------------------

    def _published(self, event: Publish) -> None:
        name = read_topic(event.topic)
        if name is None:
            return
        self.messages += 1
        client = self.world.clients.get(event.client)
        if client is not None:
            client.published += 1
        if event.simulated:
            self._simulated(event, name)
        elif name.type == STATE:
            cleared = not event.payload and client is None  # anybody may delete a retained message
            if self._host.concerns(name.node) and not cleared:
                self._host.published(event, name, client)
        elif name.type in EDGE_TYPES:
            self._from_edge(event, name, client)
        elif name.type:
            self._command(event, name)
        else:
            self._shapeless(event, name)

    def _simulated(self, event: Publish, name: Name) -> None:
        if name.type in EDGE_TYPES:
            self._unjudged.published(event, name, None)
        elif name.type == "NCMD":
            self._asked(event, name)

    def _from_edge(self, event: Publish, name: Name, client: Client | None) -> None:
        if client is not None and client.host:
            self._commands.foreign(event, name)
            return
        if not self._within(name):
            if len(self.others) < MAX_OTHERS:
                self.others.add(f"{name.group}/{name.node}")
            return
        first = False
        if client is not None:
            self._sessions.published(client, event, name)
            first = name.type == "NBIRTH" and not client.born
            client.born = client.born or first
        self._edge.published(event, name, client)
        if first and client is not None:
            self.primary.born(client, event.at_ms)

    def _command(self, event: Publish, name: Name) -> None:
        if not self._within(name):
            return
        self._commands.published(event, name)
        if name.type == "NCMD":
            self._asked(event, name)

    def _asked(self, event: Publish, name: Name) -> None:
        """An NCMD was published. Where the proxy sees it delivered to the node, its time is that of the delivery."""
        node = self.world.nodes.get(NodeKey(event.server, name.group, name.node))
        if node is None or not _rebirth(event.payload):
            return
        if not node.client:
            self._rebirths.requested(node, event.at_ms)
        if not event.simulated:
            self._ordering.requested(node, event.at_ms)

    def _rebirth_request(self, event: Delivery, name: Name) -> None:
        node = self.world.nodes.get(NodeKey(event.server, name.group, name.node))
        if node is not None and _rebirth(event.payload):
            self._rebirths.requested(node, event.at_ms)

    def _shapeless(self, event: Publish, name: Name) -> None:
        """A topic under `spBv1.0/` with no known type, as when an id contains a slash."""
        if self.scope.role is Role.EDGE and self.scope.group in ("", name.group):
            text = "neither a type of message at the third level nor STATE at the second"
            self.ledger.judge("topic.form", False, event.at_ms, event.topic, text)

    def _within(self, name: Name) -> bool:
        node = self.scope.node if self.scope.role is Role.EDGE else ""
        return self.scope.group in ("", name.group) and node in ("", name.node)


def _rebirth(payload: bytes) -> bool:
    try:
        return asks_rebirth(read_payload(payload))
    except Unreadable:
        return False


def excuses(scope: Scope, world: World) -> dict[str, str]:
    """Rules that cannot apply to what was watched, and why; used for those that nothing was seen of."""
    found: dict[str, str] = {}
    if not scope.host_id and scope.role is Role.EDGE:
        found |= {rule.name: "no --host-id was given" for rule in PRIMARY}
    if scope.servers < 2:
        found |= {rule.name: "one broker is watched" for rule in ALL_RULES if rule.need is Need.SERVERS}
    protocols = {client.connect.protocol for client in world.clients.values() if client.node or client.host}
    if protocols and 5 not in protocols:
        found |= dict.fromkeys(("connect.clean-50", "ndeath.disconnect-50", "state.clean-50"), "MQTT 3.1.1 is used")
    if any(client.host and client.disconnect for client in world.clients.values()):
        found["state.death-no-packet"] = "the host ends its sessions with DISCONNECT"
    if protocols == {5}:
        found |= dict.fromkeys(("connect.clean-311", "ndeath.disconnect-311", "state.clean-311"), "MQTT 5 is used")
    return found
