"""Judges the sessions of host applications: Will, subscriptions, STATE. Source: specification 3.0, chapters 4 to 6."""

from __future__ import annotations

from cloud_hub.scada.conformance.core.deadlines import Deadlines
from cloud_hub.scada.conformance.core.events import Publish
from cloud_hub.scada.conformance.core.ledger import Case, Ledger
from cloud_hub.scada.conformance.core.names import NAMESPACE, STATE, Name, covers, fault_of_id
from cloud_hub.scada.conformance.core.state import State, read_state
from cloud_hub.scada.conformance.core.world import Client, World

CLOCK_MS = 30_000
"""A Will's timestamp may differ by this from the time of CONNECT, a death's from that of its publication."""


class HostJudge:
    """Judges the host `host_id`, or every host when it is ''."""

    def __init__(self, world: World, ledger: Ledger, host_id: str, servers: int, deadlines: Deadlines) -> None:
        self._world, self._ledger, self._host, self._servers = world, ledger, host_id, servers
        self._deadlines = deadlines

    def concerns(self, host: str) -> bool:
        """Whether this host is judged."""
        return not self._host or host.split("/", maxsplit=1)[0] == self._host

    def connected(self, client: Client, name: Name) -> None:
        """CONNECT with a STATE as Will."""
        client.host = name.node.split("/")[0]
        self._judge_connect(client)

    def _judge_connect(self, client: Client) -> None:
        event, will = client.connect, client.connect.will
        with self._ledger.case(event.at_ms, _where(client)) as case:
            if event.protocol >= 5:
                expiry = event.session_expiry_s
                text = f"Clean Start {event.clean}, session expiry {expiry} s"
                case.check("state.clean-50", event.clean and expiry == 0, text)
            else:
                case.check("state.clean-311", event.clean, "Clean Session is false")
            case.check("state.will", will is not None, "no Will")
            if will is None:
                return
            topic = f"{NAMESPACE}/{STATE}/{client.host}"
            case.check("state.will-topic", will.topic == topic, f"the Will's topic is {will.topic}, not {topic}")
            case.check("state.will-qos", will.qos == 1, f"QoS {will.qos}")
            case.check("state.will-retain", will.retain, "not retained")
            state, fault = read_state(will.payload)
            fault = fault or ("online is true" if state and state.online else "")
            case.check("state.will-payload", not fault, fault)
            if state is not None:
                off = abs(state.time_ms - event.at_ms)
                case.check("state.will-time", off <= CLOCK_MS, f"{off / 1000:.0f} s from the time of CONNECT")

    def accepted(self, client: Client) -> None:
        """CONNACK of a host's connection."""
        twins = self._world.others(client, host=client.host)
        text = f"{len(twins)} other connection(s) are '{client.host}'"
        self._ledger.judge("state.id-unique", not twins, client.connect.at_ms, _where(client), text)

    def published(self, event: Publish, name: Name, client: Client | None) -> None:
        """A STATE message of a host."""
        if client is not None and not client.host:
            client.host = name.node.split("/")[0]
            self._judge_connect(client)
        with self._ledger.case(event.at_ms, event.topic) as case:
            state, fault = read_state(event.payload)
            born = state is None or state.online
            case.check("topic.form", name.well_formed, f"{name.parts} levels")
            case.check("topic.without-device", name.well_formed, f"{name.parts} levels")
            self._envelope(case, event, name, born=born)
            case.check("state.birth-payload" if born else "state.death-topic", not fault, fault)
            if state is None:
                return
            case.check("state.published", True)
            if client is not None:
                (self._birth if born else self._death)(case, client, event, state)

    def _envelope(self, case: Case, event: Publish, name: Name, *, born: bool) -> None:
        kind = "birth" if born else "death"
        fault = fault_of_id(name.node)
        case.check(f"state.{kind}-topic", name.well_formed and not fault, f"the host id {fault or 'has levels'}")
        case.check(f"state.{kind}-qos", event.qos == 1, f"QoS {event.qos}")
        case.check(f"state.{kind}-retain", event.retain, "not retained")

    def _birth(self, case: Case, client: Client, event: Publish, state: State) -> None:
        will = client.connect.will
        promised = read_state(will.payload)[0] if will is not None else None
        same = promised is not None and promised.time_ms == state.time_ms
        text = f"timestamp {state.time_ms}, of the Will {promised.time_ms if promised else 'none'}"
        case.check("state.birth-will", same, text)
        if self._servers > 1:
            case.check("state.server-time", same, text)
        client.state_births += 1
        if client.restore_ms is not None:
            case.check("state.restored", same, text)
            client.restore_ms = None
        if client.state_births == 1:
            case.check("state.birth-first", client.published == 1, "other messages were published before the birth")
            case.check("state.birth", True)
            case.check("state.server-birth", True)
            self._subscribed(case, client, event.topic)

    def _subscribed(self, case: Case, client: Client, topic: str) -> None:
        own = any(covers(one, topic) for one, _ in client.filters)
        nodes = any(one.startswith(f"{NAMESPACE}/") and covers(one, _some_birth(one)) for one, _ in client.filters)
        text = f"subscribed: {[one for one, _ in client.filters][:6]}"
        case.check("state.subscribed", own and nodes, text)
        case.check("state.subscribed-first", own and nodes, f"birth before the subscriptions; {text}")

    def _death(self, case: Case, client: Client, event: Publish, state: State) -> None:
        client.state_death_ms, client.state_death_time = event.at_ms, state.time_ms

    def state_delivered(self, client: Client, host: str, state: State | None, at_ms: int) -> None:
        """A STATE message was delivered to a host."""
        offline = state is not None and not state.online
        if host == client.host and offline and client.state_births and client.state_death_ms is None:
            client.restore_ms = client.restore_ms or at_ms

    def ended(self, client: Client, at_ms: int) -> None:
        """The connection of a host is closed, after DISCONNECT or without it."""
        died, packet = client.state_death_ms, client.disconnect
        client.restore_ms = None
        if packet is None and died is None:
            return
        off = abs((client.state_death_time or 0) - died) if died is not None else 0
        with self._ledger.case(at_ms, _where(client)) as case:
            case.check("state.death", died is not None, "DISCONNECT, but no offline STATE was published before it")
            rule = "state.death-no-packet" if packet is None else "state.death-clean"
            case.check(rule, died is not None and off <= CLOCK_MS, f"the death's timestamp is {off / 1000:.0f} s off")
            if packet is not None and died is not None:
                case.check("state.disconnect", True)

    def tick(self, at_ms: int) -> None:
        """Judge what should have happened by now."""
        for client in self._world.clients.values():
            if not client.host or not client.open or not client.accepted or not self.concerns(client.host):
                continue
            if client.state_births == 0 and at_ms > client.connect.at_ms + self._deadlines.birth_ms:
                client.state_births = -1
                text = f"no birth within {self._deadlines.birth_ms // 1000} s of CONNECT"
                for rule in ("state.birth", "state.published", "state.server-birth"):
                    self._ledger.judge(rule, False, at_ms, _where(client), text)
            if client.restore_ms is not None and at_ms > client.restore_ms + self._deadlines.restore_ms:
                client.restore_ms = None
                text = f"no birth within {self._deadlines.restore_ms // 1000} s of an offline STATE of itself"
                self._ledger.judge("state.restored", False, at_ms, _where(client), text)


def _where(client: Client) -> str:
    return f"client '{client.connect.client_id}'" + (f" (host {client.host})" if client.host else "")


def _some_birth(topic_filter: str) -> str:
    """A topic of an NBIRTH that the filter covers, if it covers one at all."""
    levels = [*topic_filter.split("/"), "#", "#", "#"][:4]
    group, kind, node = (("x" if level in ("+", "#") else level) for level in levels[1:])
    return f"{NAMESPACE}/{group}/{'NBIRTH' if kind == 'x' else kind}/{node}"
