"""Provokes edge nodes: rebirth requests, and STATE of a simulated primary host.

Each step waits for what it provokes. The verdicts come from the watch; nothing is judged here.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import partial

from cloud_hub.scada.conformance.brokers import Broker, Client
from cloud_hub.scada.conformance.core.events import Publish
from cloud_hub.scada.conformance.core.world import Node
from cloud_hub.scada.conformance.stimulus import Stage
from cloud_hub.scada.conformance.watch import now_ms
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import REBIRTH, Metric, Payload

OLD_MS = 60_000
"""How much older than the last STATE an outdated one is."""
BIRTH_S = 60.0
AGAIN_S = 20.0
"""Time for nodes to connect again; a subscriber does not see that they have."""
MAX_NODES = 20
"""Nodes that are asked for a rebirth; a whole plant at once would be a storm."""


class EdgeStimulus:
    """Runs the scenarios against the nodes of one scope. `clients` are our own clients, one for each broker."""

    def __init__(self, stage: Stage, brokers: list[Broker]) -> None:
        self._stage, self._watch = stage, stage.watch
        self._clients = [Client(broker, lambda *_: None) for broker in brokers]
        self._host, self._deadlines = stage.watch.scope.host_id, stage.watch.scope.deadlines

    def run(self) -> None:
        """Play all scenarios."""
        if self._host:
            self._stage.progress(f"host '{self._host}' says that it is online")
            self._state(self._host, online=True, time_ms=now_ms())
        self._wait("an NBIRTH", BIRTH_S, lambda: bool(self._watch.nodes()))
        nodes = self._watch.nodes()[:MAX_NODES]
        for node in nodes:
            self._rebirth(node)
            self._remove_device(node)
        if self._host and nodes:
            self._primary({str(node.key) for node in nodes})
        for node in nodes:
            if self._stage.operator.act("stop", node.key.group, node.key.node, "", ""):
                self._wait("the end of the session", 30, partial(self._gone, {str(node.key)}))

    def _gone(self, wanted: set[str]) -> bool:
        return not wanted & self._born()

    def _born(self) -> set[str]:
        """Descriptors of the nodes that are born, on any broker."""
        return {str(node.key) for node in self._watch.nodes() if node.born}

    def close(self) -> None:
        """Take back what was retained, and disconnect."""
        if self._host:
            self._state(f"{self._host}-other", online=None, time_ms=0)
            self._state(self._host, online=None, time_ms=0)
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.close()

    def _wait(self, what: str, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        self._stage.progress(f"waiting up to {seconds:.0f} s for {what}")
        return self._watch.wait(seconds, until)

    def _state(self, host: str, *, online: bool | None, time_ms: int) -> None:
        """Publish STATE on all brokers; None clears it."""
        payload = b"" if online is None else json.dumps({"online": online, "timestamp": time_ms}).encode()
        for client in self._clients:
            client.publish(f"spBv1.0/STATE/{host}", payload, 1, retain=True)

    def _rebirth(self, node: Node) -> None:
        key = node.key
        self._stage.progress(f"rebirth request to {key}")
        at_ms = now_ms()
        metric = Metric(name=REBIRTH, timestamp=at_ms, datatype=DataType.Boolean, value=True)
        payload = encode(Payload(timestamp=at_ms, metrics=(metric,)), with_datatypes=False)
        topic = f"spBv1.0/{key.group}/NCMD/{key.node}"
        self._watch.observe(
            Publish(
                at_ms=at_ms, server=key.server, topic=topic, payload=payload, qos=0, retain=False, simulated=True,
            )
        )  # fmt: skip
        self._clients[key.server].publish(topic, payload)
        self._watch.wait(1.0, lambda: node.rebirth is not None)
        self._wait("all births", self._deadlines.answer_ms / 1000 + 1, lambda: node.rebirth is None)

    def _remove_device(self, node: Node) -> None:
        key = node.key
        device = next((name for name, source in node.devices.items() if source.alive), "")
        if device and self._stage.operator.act("remove-device", key.group, key.node, device, ""):
            gone = self._wait("DDEATH", 60, lambda: not node.devices[device].alive)
            self._watch.confirm("ddeath.lost", gone, f"{key}/{device}: no DDEATH within 60 s")

    def _primary(self, nodes: set[str]) -> None:
        """STATE offline that is outdated, of another host, valid; then online that is outdated, valid."""
        born_ms = now_ms()
        self._state(self._host, online=True, time_ms=born_ms)
        self._stage.progress("an offline STATE that is outdated: the nodes stay")
        self._state(self._host, online=False, time_ms=born_ms - OLD_MS)
        self._wait("nothing", self._deadlines.stay_ms / 1000 + 1)
        self._stage.progress("an offline STATE: the nodes leave, and wait")
        self._state(f"{self._host}-other", online=True, time_ms=now_ms())
        offline_ms = now_ms()
        self._state(self._host, online=False, time_ms=offline_ms)
        self._wait("NDEATH", self._deadlines.leave_ms / 1000 + 1, partial(self._gone, nodes))
        self._wait(
            "the nodes to try each server", AGAIN_S, partial(self._watch.state_was_delivered, nodes, outdated=False)
        )
        self._stage.progress("an online STATE that is outdated: the nodes still wait")
        self._state(self._host, online=True, time_ms=offline_ms - OLD_MS)
        self._wait(
            "the nodes to connect again", AGAIN_S, partial(self._watch.state_was_delivered, nodes, outdated=True)
        )
        self._wait("nothing", 2)
        self._stage.progress("an online STATE: the nodes are born")
        self._state(self._host, online=True, time_ms=now_ms())
        self._wait("NBIRTH", BIRTH_S, lambda: nodes <= self._born())
