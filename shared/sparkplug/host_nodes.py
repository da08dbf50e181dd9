"""All nodes that a host knows, bounded: nodes that were never born make place first, then nodes that are offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shared.sparkplug.host_node import Liveness, Node
from shared.sparkplug.rebirths import NodeBackoff
from shared.sparkplug.sequence import Sequence
from shared.sparkplug.topics import NodeId

MAX_UNBORN = 1_000
"""Nodes that were heard of, but not born."""


class NodeTable:
    """Nodes by id. `silent` are those that are dead unless they answer. `evicted` is told which one makes place."""

    def __init__(
        self,
        max_nodes: int,
        max_waiting: int,
        max_waiting_bytes: int,
        rebirth_first_ms: int,
        rebirth_limit_ms: int,
        evicted: Callable[[Node], None],
    ) -> None:
        self._max_nodes, self._evicted = max_nodes, evicted
        self._sequence = (max_waiting, max_waiting_bytes)
        self._backoff = (rebirth_first_ms, rebirth_limit_ms)
        self._nodes: dict[NodeId, Node] = {}
        self._unborn: dict[NodeId, Node] = {}
        self.silent: dict[NodeId, Node] = {}
        self.gaps: dict[NodeId, Node] = {}
        """Nodes with messages that wait for a missing one."""

    def __iter__(self) -> Iterator[Node]:
        yield from self._nodes.values()
        yield from self._unborn.values()

    def get(self, node: NodeId) -> Node | None:
        """The node, if it is known."""
        return self._nodes.get(node) or self._unborn.get(node)

    def add_known(self, node: NodeId) -> None:
        """A node of an earlier run that was online."""
        if len(self._nodes) < self._max_nodes:
            self._nodes[node] = made = self._make(node, 0)
            made.expected_back = True

    def find_or_add(self, node: NodeId, now_ms: int) -> Node:
        """The node; a new one is not born. The oldest of those makes place."""
        found = self.get(node)
        if found is None:
            if len(self._unborn) >= MAX_UNBORN:
                self._forget(self._unborn, next(iter(self._unborn)))
            self._unborn[node] = found = self._make(node, now_ms)
        found.heard_ms = now_ms
        return found

    def admit(self, node: NodeId, now_ms: int) -> Node | None:
        """The node, which is about to be born; None if there are too many."""
        found = self._nodes.get(node)
        if found is None:
            if len(self._nodes) >= self._max_nodes and not self._make_place():
                return None
            found = self._nodes[node] = self._unborn.pop(node) if node in self._unborn else self._make(node, now_ms)
        found.heard_ms = now_ms
        return found

    def _make_place(self) -> bool:
        dead = (one.id for one in self._nodes.values() if one.liveness in {Liveness.OFFLINE, Liveness.REFUSED})
        gone = next(dead, None)
        if gone is None:
            return False
        self._forget(self._nodes, gone)
        return True

    def _forget(self, table: dict[NodeId, Node], node: NodeId) -> None:
        self._evicted(table.pop(node))
        self.silent.pop(node, None)
        self.gaps.pop(node, None)

    def _make(self, node: NodeId, now_ms: int) -> Node:
        return Node(id=node, sequence=Sequence(*self._sequence), backoff=NodeBackoff(*self._backoff), heard_ms=now_ms)
