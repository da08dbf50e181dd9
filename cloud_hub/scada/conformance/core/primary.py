"""Judges how edge nodes follow their primary host's STATE. Source: specification 3.0, chapters 5 and 8."""

from __future__ import annotations

from dataclasses import dataclass

from cloud_hub.scada.conformance.core.deadlines import Deadlines
from cloud_hub.scada.conformance.core.ledger import Ledger
from cloud_hub.scada.conformance.core.names import NAMESPACE, covers
from cloud_hub.scada.conformance.core.state import State
from cloud_hub.scada.conformance.core.world import MAX_NODES, Client, HostState, World

MAX_HOSTS = 50


@dataclass(slots=True)
class _Left:
    at_ms: int
    server: int


class PrimaryJudge:
    """Judges edge nodes that wait for the host `host_id`; does nothing when it is ''."""

    def __init__(self, world: World, ledger: Ledger, host_id: str, servers: int, deadlines: Deadlines) -> None:
        self._world, self._ledger, self._host, self._servers = world, ledger, host_id, servers
        self._deadlines = deadlines
        self._left: dict[str, _Left] = {}
        self._states: dict[tuple[int, str], dict[str, HostState]] = {}

    def connected(self, client: Client, at_ms: int) -> None:
        """CONNECT of an edge node. It remembers the timestamps of STATE on this server, not that a host was online."""
        if len(self._states) < MAX_NODES:
            client.states = self._states.setdefault((client.connect.server, str(client.node)), client.states)
        for known in client.states.values():
            known.online, known.online_ms = False, None
        left = self._left.pop(str(client.node), None)
        if left is not None:
            other = self._servers < 2 or client.connect.server != left.server
            self._judge("servers.next", client, at_ms, other, "connected again to the server that it left")

    def states(self) -> dict[tuple[int, str], HostState]:
        """What each node, on each server, was told of its host; by server and descriptor."""
        return {key: hosts[self._host] for key, hosts in self._states.items() if self._host in hosts}

    def state_delivered(self, client: Client, host: str, state: State | None, at_ms: int) -> None:
        """A STATE message was delivered to an edge node. What is no valid STATE changes nothing."""
        if not self._host or state is None or (host not in client.states and len(client.states) >= MAX_HOSTS):
            return
        known = client.states.setdefault(host, HostState())
        current = known.last_ms is None or state.time_ms >= known.last_ms
        if host == self._host:
            self._offline(client, known, state, at_ms)
        if state.online:
            known.stale_online = known.stale_online or not current
            if current:
                known.online, known.online_ms = True, state.time_ms
        else:
            known.told_offline = True
            known.online = known.online and not current
        if current:
            known.last_ms = state.time_ms

    def _offline(self, client: Client, known: HostState, state: State, at_ms: int) -> None:
        node = self._world.nodes.get(client.node) if client.node else None
        if state.online or node is None or not node.born or known.online_ms is None:
            return
        if state.time_ms >= known.online_ms:
            client.leave_ms = client.leave_ms or at_ms
            client.stay_ms = None
        else:
            client.stay_ms = at_ms

    def born(self, client: Client, at_ms: int) -> None:
        """The first NBIRTH of a connection."""
        if not self._host:
            return
        known = client.states.get(self._host)
        online = known is not None and known.online
        others = [host for host, state in client.states.items() if state.online and host != self._host]
        self._judge("primary.wait", client, at_ms, online, f"NBIRTH before '{self._host}' was online")
        if online or others:
            self._judge("primary.id", client, at_ms, online, f"NBIRTH, but only {others} is online")
        if known is not None and (known.told_offline or online):
            self._judge("primary.online", client, at_ms, online, "NBIRTH while the last valid STATE was offline")
        if known is not None and known.stale_online:
            self._judge("primary.timestamp", client, at_ms, online, "NBIRTH after an outdated online STATE")
        if known is not None:
            known.stale_online = known.told_offline = False
        topic = f"{NAMESPACE}/STATE/{self._host}"
        subscribed = any(covers(one, topic) for one, _ in client.filters)
        self._judge("primary.subscribed", client, at_ms, subscribed, f"no subscription to {topic}")

    def ended(self, client: Client, at_ms: int) -> None:
        """The connection of an edge node is closed."""
        if client.leave_ms is not None:
            died = (client.ndeath_ms or 0) >= client.leave_ms
            died = died or (client.disconnect is not None and client.disconnect.reason == 4)
            self._judge("primary.offline", client, at_ms, died, "no NDEATH after the offline STATE")
            self._judge("primary.leave", client, at_ms, True, "")
            self._left[str(client.node)] = _Left(at_ms, client.connect.server)
            client.leave_ms = None
        elif client.stay_ms is not None and client.disconnect is not None:
            self._judge("primary.old-offline", client, at_ms, False, "left after an outdated offline STATE")
        client.stay_ms = None

    def tick(self, at_ms: int) -> None:
        """Judge what should have happened by now."""
        if not self._host:
            return
        for client in self._world.clients.values():
            if client.stay_ms is not None and at_ms > client.stay_ms + self._deadlines.stay_ms:
                client.stay_ms = None
                self._judge("primary.old-offline", client, at_ms, True, "")
            if client.leave_ms is not None and client.open and at_ms > client.leave_ms + self._deadlines.leave_ms:
                client.leave_ms = None
                text = f"still connected {self._deadlines.leave_ms // 1000} s after the offline STATE"
                self._judge("primary.offline", client, at_ms, False, text)
                self._judge("primary.leave", client, at_ms, False, text)
        for node, left in list(self._left.items()):
            if at_ms > left.at_ms + self._deadlines.next_ms:
                del self._left[node]
                text = f"not connected {self._deadlines.next_ms // 1000} s after it left"
                self._ledger.judge("servers.next", False, at_ms, node, text)

    def _judge(self, rule: str, client: Client, at_ms: int, kept: bool, what: str) -> None:
        self._ledger.judge(rule, kept, at_ms, f"client '{client.connect.client_id}' ({client.node})", what)
