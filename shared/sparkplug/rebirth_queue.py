"""Asks nodes for rebirths: one after the other, within the limits, until each is born or stays silent."""

from __future__ import annotations

from shared.sparkplug import topics
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.effects import HostEffect, Publish, RebirthRequested
from shared.sparkplug.encode import encode
from shared.sparkplug.host_node import Node
from shared.sparkplug.payload import REBIRTH, Metric, Payload
from shared.sparkplug.topics import MessageType, NodeId
from shared.token_bucket import TokenBucket

MAX_UNANSWERED = 6
"""Requests to a node that stays silent; further ones follow when it is heard again."""


class RebirthQueue:
    """Nodes whose rebirth is wanted, first come first served. `connected`: requests can be sent."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._bucket = TokenBucket.full(per_s / 1000, burst)
        self._waiting: dict[NodeId, Node] = {}
        self.connected = False

    def want(self, node: Node, reason: str, now_ms: int) -> list[HostEffect]:
        """A rebirth of the node is needed: asked for now, or as soon as its backoff and the bucket allow it."""
        node.wanted = node.wanted or reason
        node.unanswered = 0
        if node.id in self._waiting:
            return []
        self._waiting[node.id] = node
        return self._ask(node, now_ms)

    def demand(self, node: Node, reason: str, now_ms: int) -> list[HostEffect]:
        """As `want`, but without the node's backoff."""
        node.wanted, node.unanswered = reason, 0
        self._waiting[node.id] = node
        return self._ask(node, now_ms, hurry=True)

    def forget(self, node: Node) -> None:
        """The node was born, or is gone."""
        self._waiting.pop(node.id, None)

    def run(self, now_ms: int) -> list[HostEffect]:
        """Requests that are due."""
        effects: list[HostEffect] = []
        for node in list(self._waiting.values()):
            if node.unanswered >= MAX_UNANSWERED:
                del self._waiting[node.id]
            else:
                effects += self._ask(node, now_ms)
        return effects

    def _ask(self, node: Node, now_ms: int, *, hurry: bool = False) -> list[HostEffect]:
        if not self.connected or not (hurry or node.backoff.due(now_ms)) or not self._bucket.allow(now_ms):
            return []
        node.backoff.asked(now_ms)
        node.asked, node.unanswered = True, node.unanswered + 1
        return [rebirth_command(node, now_ms), RebirthRequested(node=node.id, reason=node.wanted)]


def rebirth_command(node: Node, now_ms: int) -> Publish:
    """The NCMD that asks for a rebirth. Its datatype is left out only for nodes whose DATA does without, too."""
    metric = Metric(name=REBIRTH, timestamp=now_ms, datatype=DataType.Boolean, value=True)
    payload = encode(Payload(timestamp=now_ms, metrics=(metric,)), with_datatypes=node.data_datatypes is not False)
    return Publish(topic=str(topics.node_topic(MessageType.NCMD, node.id)), payload=payload)
