"""Judges what a host does when messages of an edge node are missing. Source: specification 3.0, section 5.13."""

from __future__ import annotations

from cloud_hub.scada.conformance.core.deadlines import Deadlines
from cloud_hub.scada.conformance.core.ledger import Ledger
from cloud_hub.scada.conformance.core.world import Gap, Node, World

EARLY = 0.5
"""A rebirth request before this part of the Reorder Timeout has passed is too early."""


class OrderJudge:
    """Follows gaps in the sequence numbers of nodes until the host has asked for a rebirth, or need not."""

    def __init__(self, world: World, ledger: Ledger, timeout_ms: int, deadlines: Deadlines) -> None:
        self._world, self._ledger, self._timeout, self._late = world, ledger, timeout_ms, deadlines.late_ms

    def requested(self, node: Node, at_ms: int) -> None:
        """A host asked the node for a rebirth."""
        gap = node.gap
        if gap is None or gap.request_ms is not None:
            return
        gap.request_ms = at_ms
        waited = at_ms - gap.at_ms
        if gap.filled_ms is not None:
            self._judge("reorder.success", node, at_ms, False, "rebirth asked for, though all messages had arrived")
        else:
            early = waited < self._timeout * EARLY
            text = f"asked for after {waited} ms, the Reorder Timeout is {self._timeout} ms"
            self._judge("reorder.start", node, at_ms, not early, text)
            self._judge("reorder.param", node, at_ms, abs(waited - self._timeout) <= self._late and not early, text)
            self._judge("reorder.rebirth", node, at_ms, True, "")
        node.gap = None

    def tick(self, at_ms: int) -> None:
        """Judge gaps whose time is over."""
        for node in self._world.nodes.values():
            gap = node.gap
            if gap is not None and at_ms > gap.at_ms + self._timeout + self._late:
                self._over(node, gap, at_ms)
                node.gap = None

    def _over(self, node: Node, gap: Gap, at_ms: int) -> None:
        if gap.filled_ms is not None and gap.filled_ms <= gap.at_ms + self._timeout:
            self._judge("reorder.success", node, at_ms, True, "")
        elif node.born:
            text = f"seq {sorted(gap.missing)[:5]} missing, no rebirth asked for"
            self._judge("reorder.rebirth", node, at_ms, False, text)

    def _judge(self, rule: str, node: Node, at_ms: int, kept: bool, what: str) -> None:
        self._ledger.judge(rule, kept, at_ms, str(node.key), what)
