"""Judges how edge nodes answer rebirth requests. Source: specification 3.0, section 6.4.3 (operational behaviour)."""

from __future__ import annotations

from cloud_hub.scada.conformance.core.deadlines import Deadlines
from cloud_hub.scada.conformance.core.ledger import Ledger
from cloud_hub.scada.conformance.core.names import Name, NodeKey
from cloud_hub.scada.conformance.core.world import Node, Rebirth, World


class RebirthJudge:
    """Follows each rebirth request from its arrival to the last birth."""

    def __init__(self, world: World, ledger: Ledger, deadlines: Deadlines) -> None:
        self._world, self._ledger, self._deadlines = world, ledger, deadlines
        self._open: set[NodeKey] = set()

    def requested(self, node: Node, at_ms: int) -> None:
        """A rebirth request has reached the node."""
        if node.born and node.rebirth is None:
            alive = frozenset(device for device, source in node.devices.items() if source.alive)
            node.rebirth = Rebirth(at_ms, alive)
            self._open.add(node.key)

    def node_born(self, node: Node, bdseq: int | None, at_ms: int) -> None:
        """An NBIRTH; called before `node` is updated."""
        pending = node.rebirth
        if pending is None or pending.born_ms is not None:
            return
        pending.born_ms = at_ms
        late = pending.late_data
        self._judge("rebirth.stop", node, at_ms, not late, f"{late} after the request, before the NBIRTH")
        same = bdseq is not None and bdseq == node.bdseq
        self._judge("rebirth.bdseq", node, at_ms, same, f"bdSeq {bdseq}, before {node.bdseq}")
        self._complete(node, at_ms)

    def device_born(self, node: Node, device: str, at_ms: int) -> None:
        """A DBIRTH."""
        if node.rebirth is not None and node.rebirth.born_ms is not None:
            node.rebirth.reborn.add(device)
            self._complete(node, at_ms)

    def device_gone(self, node: Node, device: str) -> None:
        """A DDEATH: the device need not be reborn."""
        if node.rebirth is not None:
            node.rebirth.reborn.add(device)

    def data(self, node: Node, name: Name, at_ms: int) -> None:
        """NDATA or DDATA."""
        pending = node.rebirth
        if pending is None:
            return
        if pending.born_ms is None:
            if at_ms > pending.at_ms + self._deadlines.settle_ms:
                pending.late_data = pending.late_data or f"{name.type} {at_ms - pending.at_ms} ms"
            return
        missing = sorted(pending.devices - pending.reborn)
        self._judge("rebirth.births", node, at_ms, not missing, f"data before the DBIRTH of {missing[:3]}")
        self._close(node)

    def tick(self, at_ms: int) -> None:
        """Judge the requests that should have been answered by now."""
        for key in list(self._open):
            node = self._world.nodes.get(key)
            pending = node.rebirth if node else None
            if node is None or pending is None:
                self._open.discard(key)
            elif at_ms > pending.at_ms + self._deadlines.answer_ms:
                what = "no NBIRTH" if pending.born_ms is None else "not all devices were born again"
                if pending.born_ms is None and pending.late_data:
                    self._judge("rebirth.stop", node, at_ms, False, f"{pending.late_data} after the request")
                text = f"{what} within {self._deadlines.answer_ms // 1000} s of the request"
                self._judge("rebirth.births", node, at_ms, False, text)
                self._close(node)

    def _complete(self, node: Node, at_ms: int) -> None:
        pending = node.rebirth
        if pending is not None and pending.devices <= pending.reborn:
            self._judge("rebirth.births", node, at_ms, True, "")
            self._close(node)

    def _close(self, node: Node) -> None:
        node.rebirth = None
        self._open.discard(node.key)

    def _judge(self, rule: str, node: Node, at_ms: int, kept: bool, what: str) -> None:
        self._ledger.judge(rule, kept, at_ms, str(node.key), what)
