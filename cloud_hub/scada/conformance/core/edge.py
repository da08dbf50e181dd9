"""Judges the messages of edge nodes, one by one. Source: specification 3.0, chapters 4 to 6.

With `judged` False (the checker's own simulated node) the message only updates what is known.
"""

from __future__ import annotations

from typing import Any

from cloud_hub.scada.conformance.core.events import Publish
from cloud_hub.scada.conformance.core.fields import Message, Unreadable, read_payload
from cloud_hub.scada.conformance.core.ledger import Case, Ledger
from cloud_hub.scada.conformance.core.metrics import (
    CLOCK_MS,
    Place,
    bdseq_of,
    check_birth,
    check_control,
    check_data,
)  # fmt: skip
from cloud_hub.scada.conformance.core.names import Name, NodeKey, fault_of_id
from cloud_hub.scada.conformance.core.rebirths import RebirthJudge
from cloud_hub.scada.conformance.core.world import MAX_DEVICES, Client, Gap, Node, Source, World

MAX_SEQ = 255


class EdgeJudge:
    """Judges what edge nodes publish."""

    def __init__(self, world: World, ledger: Ledger, rebirths: RebirthJudge) -> None:
        self._world, self._ledger, self._rebirths = world, ledger, rebirths
        self._lower: dict[str, str] = {}
        self._devices: dict[str, str] = {}

    def published(self, event: Publish, name: Name, client: Client | None) -> None:
        """A message on a topic of an edge node, of any type but commands."""
        with self._ledger.case(event.at_ms, event.topic) as case:
            self._topic(case, name)
            if not name.well_formed:
                return
            self._envelope(case, event, name)
            node = self._world.node(NodeKey(event.server, name.group, name.node))
            if client is not None:
                node.client = client.key
            try:
                payload = read_payload(event.payload)
            except Unreadable as error:
                self._unreadable(case, name, str(error))
                return
            self._payload(case, name, payload)
            if name.type == "NDEATH":
                self._death(case, node, payload, client)
                return
            self._sequence(case, node, name, payload)
            if name.type.endswith("BIRTH"):
                self._birth(case, node, name, payload, client)
            elif name.type == "DDEATH":
                self._device_death(node, name)
            else:
                self._data(case, node, name, payload)

    # -- topic and envelope ------------------------------------------------------------------------

    def _topic(self, case: Case, name: Name) -> None:
        kind = name.type.lower()
        case.check("topic.form", name.well_formed, f"{name.parts} levels")
        case.check(f"{kind}.topic", name.well_formed, f"{name.parts} levels")
        shape = "topic.with-device" if name.of_device else "topic.without-device"
        case.check(shape, name.well_formed, f"{name.type} with {name.parts} levels")
        ids = [("topic.group", name.group), ("topic.node", name.node)]
        ids += [("topic.device", name.device)] if name.of_device and name.parts > 4 else []
        for rule, text in ids:
            fault = fault_of_id(text)
            case.check(rule, not fault, f"{text!r} {fault}")
            if len(self._lower) < MAX_DEVICES * 10:
                other = self._lower.setdefault(f"{rule} {text.lower()}", text)
                case.check("ids.case", other == text, f"'{other}' and '{text}'")

    def _envelope(self, case: Case, event: Publish, name: Name) -> None:
        kind = name.type.lower()
        if name.type == "NDEATH":
            return
        case.check(f"{kind}.qos", event.qos == 0, f"QoS {event.qos}")
        case.check(f"{kind}.retain", not event.retain, "retained")

    def _unreadable(self, case: Case, name: Name, why: str) -> None:
        kind = name.type.lower()
        rules = [f"{kind}.payload", f"{kind}.timestamp", f"{kind}.seq", "seq.always"]
        if name.type == "NDEATH":
            rules = ["ndeath.metrics"]
        if "template_value.version:" in why:
            rules.append("template.version")
        for rule in rules:
            case.check(rule, False, f"the payload is no protobuf of Sparkplug: {why}")

    def _payload(self, case: Case, name: Name, payload: Message) -> None:
        kind = name.type.lower()
        case.check(f"{kind}.payload", True)
        if name.type == "NDEATH":
            return
        time = payload.get("timestamp")
        case.check(f"{kind}.timestamp", time is not None, "no timestamp")
        if time is not None:
            off = abs(time - case.at_ms)
            case.check("time.utc", off <= CLOCK_MS, f"timestamp {time} differs by {off / 1000:.0f} s from UTC here")

    def _sequence(self, case: Case, node: Node, name: Name, payload: Message) -> None:
        kind, seq = name.type.lower(), payload.get("seq")
        case.check("seq.always", seq is not None, f"{name.type} without seq")
        if name.type == "NBIRTH":
            case.check("nbirth.seq", seq is not None and seq <= MAX_SEQ, f"seq {seq}")
            case.check("nbirth.seq-zero", seq == 0, f"seq {seq}")
            node.seq, node.gap = (seq if seq is not None and seq <= MAX_SEQ else None), None
            return
        case.check(f"{kind}.seq", seq is not None, "no seq")
        if seq is None or node.seq is None:
            return
        expected = (node.seq + 1) % 256
        follow = _follow(node, seq, expected, case.at_ms)
        for rule in ("seq.next", f"{kind}.seq-next"):
            case.check(rule, follow, f"seq {seq} after {(expected - 1) % 256}")

    # -- births ------------------------------------------------------------------------------------

    def _birth(self, case: Case, node: Node, name: Name, payload: Message, client: Client | None) -> None:
        metrics = payload.all("metrics")
        if name.type == "NBIRTH":
            self._node_birth(case, node, metrics, client)
            check_birth(case, Place(name, node, node.own), metrics)
            return
        self._device_birth(case, node, name)
        source = node.devices.get(name.device)
        if source is None:
            source = node.devices[name.device] = Source()
        node.aliases = {alias: owner for alias, owner in node.aliases.items() if owner[0] != name.device}
        before = set(source.metrics)
        check_birth(case, Place(name, node, source), metrics)
        foreign = source.alive and before and not before & set(source.metrics)
        case.check("device.unique", not foreign, "born twice, with other metrics: two devices with one id")
        source.alive = True
        if len(node.devices) > MAX_DEVICES:
            del node.devices[next(iter(node.devices))]
        self._rebirths.device_born(node, name.device, case.at_ms)

    def _node_birth(self, case: Case, node: Node, metrics: list[Message], client: Client | None) -> None:
        bdseq = check_control(case, metrics)
        self._rebirths.node_born(node, bdseq, case.at_ms)
        if client is not None:
            will = node.will_bdseq
            case.check("nbirth.bdseq-will", bdseq is not None and bdseq == will, f"bdSeq {bdseq}, of the Will {will}")
        alive = {device for device, source in node.devices.items() if source.alive}
        node.due_devices = alive if node.born else set()
        for source in node.devices.values():
            source.alive = False
        if bdseq is not None and not node.seen_birth:
            node.bdseqs.add((bdseq - 1) % 256)  # the broker may still publish the Will of the session before
        node.born, node.seen_birth, node.data_since_birth = True, True, False
        node.aliases, node.bdseq = {}, bdseq
        if bdseq is not None:
            node.bdseqs = {*list(node.bdseqs)[-300:], bdseq}

    def _device_birth(self, case: Case, node: Node, name: Name) -> None:
        if not node.seen_birth and not node.client:
            return
        case.check("dbirth.after-nbirth", node.born, "no NBIRTH before it in this session")
        case.check("dbirth.node", node.born, f"no NBIRTH of {node.key}")
        late = node.data_since_birth and name.device in node.due_devices
        case.check("dbirth.order", node.born and not late, "after data" if node.born else "before the NBIRTH")
        node.due_devices.discard(name.device)
        other = self._devices.setdefault(name.device, str(node.key)) if len(self._devices) < MAX_DEVICES else ""
        if other not in ("", str(node.key)):
            case.check("device.elsewhere", True)

    # -- data and deaths ---------------------------------------------------------------------------

    def _data(self, case: Case, node: Node, name: Name, payload: Message) -> None:
        source = node.source(name.device)
        if node.seen_birth or node.client:
            self._order(case, node, name, source)
        node.data_since_birth = True
        self._rebirths.data(node, name, case.at_ms)
        place = Place(name, node, source or Source())
        check_data(case, place, payload.all("metrics"))

    def _order(self, case: Case, node: Node, name: Name, source: Source | None) -> None:
        fault = "" if node.born else "before the NBIRTH"
        if node.born and name.of_device and (source is None or not source.alive):
            fault = f"before the DBIRTH of '{name.device}'"
        if node.due_devices and not fault:
            fault = f"before the DBIRTH of '{min(node.due_devices)}'"
        case.check(f"{name.type.lower()}.order", not fault, fault)

    def _death(self, case: Case, node: Node, payload: Message, client: Client | None) -> None:
        check_ndeath(case, payload)
        bdseq, _ = bdseq_of(payload.all("metrics"))
        if node.seen_birth:
            case.check("ndeath.bdseq", bdseq in node.bdseqs, f"bdSeq {bdseq}, of the NBIRTH {node.bdseq}")
        if bdseq == node.bdseq or bdseq is None:
            node.born, node.seq, node.rebirth = False, None, None
            for source in node.devices.values():
                source.alive = False
        if client is not None:
            client.ndeath_ms = case.at_ms

    def _device_death(self, node: Node, name: Name) -> None:
        source = node.devices.get(name.device)
        if source is not None:
            source.alive = False
        node.due_devices.discard(name.device)
        self._rebirths.device_gone(node, name.device)


def check_ndeath(case: Case, payload: Message) -> None:
    """Judge the payload of an NDEATH, published or as Will."""
    names = [one.get("name") for one in payload.all("metrics")]
    case.check("ndeath.metrics", names == ["bdSeq"], f"metrics {names[:5]}")
    case.check("ndeath.seq", not payload.has("seq"), f"seq {payload.get('seq')}")


def _follow(node: Node, seq: Any, expected: int, at_ms: int) -> bool:
    """Whether `seq` is the next; keeps the gap that the host must notice."""
    if seq == expected:
        node.seq = seq
        return True
    gap = node.gap
    if gap is not None and seq in gap.missing:
        gap.missing.discard(seq)
        gap.filled_ms = None if gap.missing else at_ms
        return False
    distance = (seq - expected) % 256 if 0 <= seq <= MAX_SEQ else 0
    if 0 < distance < 128:
        node.gap = Gap(at_ms, {(expected + step) % 256 for step in range(distance)})
        node.seq = seq
    return False
