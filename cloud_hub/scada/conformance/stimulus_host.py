"""Provokes hosts with a simulated edge node: missing, swapped and early messages, deaths, the host's own STATE."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable

from cloud_hub.scada.conformance.brokers import Broker, Client
from cloud_hub.scada.conformance.simulated_node import DEVICE, DEVICE_METRIC, NODE_METRIC, PREFIX, SimulatedNode
from cloud_hub.scada.conformance.stimulus import Stage
from cloud_hub.scada.conformance.watch import now_ms

SETTLE_S = 2.0
"""Time for the host to take in what was published."""
_NODE_RULES = ("action.node-offline", "action.node-stale")
_DEVICES_RULES = ("action.devices-offline", "action.devices-stale")
_DEVICE_RULES = ("action.device-offline", "action.device-stale")


class HostStimulus:
    """Runs the scenarios against the host, with simulated nodes on the first broker."""

    def __init__(self, stage: Stage, brokers: list[Broker]) -> None:
        self._stage, self._watch, self._brokers = stage, stage.watch, brokers
        scope = stage.watch.scope
        self._group, self._host = scope.group or "tidegate-check", scope.host_id
        self._deadlines = scope.deadlines
        self._timeout_s = scope.reorder_timeout_ms / 1000
        self._name = scope.node or secrets.token_hex(3)
        self._nodes: list[SimulatedNode] = []

    def run(self) -> None:
        """Play all scenarios."""
        node = self._open("")
        self._stage.progress(f"a simulated edge node {self._group}/{node.node} is born")
        node.birth()
        self._wait("the host", SETTLE_S)
        node.data()
        self._ordering(node)
        self._writes(node)
        self._own_state()
        self._unborn()
        self._deaths(node)
        if self._stage.operator.act("stop", self._group, node.node, "", ""):
            self._wait("the end of the host's session", SETTLE_S)

    def close(self) -> None:
        """End the simulated nodes."""
        for node in self._nodes:
            with contextlib.suppress(OSError):
                node.end()

    def _open(self, suffix: str) -> SimulatedNode:
        name = f"{PREFIX}{self._name}{suffix}"
        node = SimulatedNode(self._watch, 0, self._brokers[0], self._group, name)
        self._nodes.append(node)
        return node

    def _wait(self, what: str, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        self._stage.progress(f"waiting up to {seconds:.1f} s for {what}")
        return self._watch.wait(seconds, until)

    def _ordering(self, node: SimulatedNode) -> None:
        whole_s = self._timeout_s + self._deadlines.late_ms / 1000 + 0.5
        self._stage.progress("two messages in the wrong order: the host must not ask for a rebirth")
        node.swapped()
        self._wait("nothing", whole_s)
        self._stage.progress("a message is missing: the host must ask for a rebirth")
        asked = node.requests
        node.gap()
        self._wait("a rebirth request", whole_s, lambda: node.requests > asked)
        self._wait("the host", SETTLE_S)

    def _writes(self, node: SimulatedNode) -> None:
        if self._stage.operator.act("write", self._group, node.node, "", NODE_METRIC):
            self._wait("an NCMD", 60, lambda: node.writes > 0)
        if self._stage.operator.act("write", self._group, node.node, DEVICE, DEVICE_METRIC):
            self._wait("a DCMD", 60, lambda: node.device_writes > 0)

    def _own_state(self) -> None:
        if not self._host:
            return
        self._stage.progress(f"an offline STATE of '{self._host}' that it did not send")
        judged = self._watch.judged("state.restored") + len(self._brokers)
        payload = json.dumps({"online": False, "timestamp": now_ms()}).encode()
        for broker in self._brokers:
            client = Client(broker, lambda *_: None)
            client.publish(f"spBv1.0/STATE/{self._host}", payload, 1, retain=True)
            client.close()
        longest_s = self._deadlines.restore_ms / 1000 + 1
        self._wait("its birth", longest_s, lambda: self._watch.judged("state.restored") >= judged)

    def _unborn(self) -> None:
        node = self._open("-late")
        self._stage.progress("data before any birth: the host should ask for a rebirth")
        node.data_unborn()
        self._wait("a rebirth request", 10, lambda: node.requests > 0)
        self._wait("the host", SETTLE_S)

    def _deaths(self, node: SimulatedNode) -> None:
        self._stage.progress("DDEATH, then NDEATH")
        node.device_death()
        self._wait("the host", SETTLE_S)
        self._stage.ask(_DEVICE_RULES, self._group, node.node, DEVICE, DEVICE_METRIC)
        node.birth()
        self._wait("the host", SETTLE_S)
        node.end()
        self._wait("the host", SETTLE_S)
        self._stage.ask(_NODE_RULES, self._group, node.node, "", NODE_METRIC)
        self._stage.ask(_DEVICES_RULES, self._group, node.node, DEVICE, DEVICE_METRIC)
