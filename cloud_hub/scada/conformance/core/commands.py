"""Judges the commands of hosts: NCMD, DCMD, rebirth requests. Source: specification 3.0, chapters 4 and 6."""

from __future__ import annotations

from cloud_hub.scada.conformance.core.events import Publish
from cloud_hub.scada.conformance.core.fields import Message, Unreadable, read_payload, value_fields
from cloud_hub.scada.conformance.core.ledger import Case, Ledger
from cloud_hub.scada.conformance.core.metrics import Place, check_reference, field_of, find
from cloud_hub.scada.conformance.core.names import REBIRTH, Name, NodeKey
from cloud_hub.scada.conformance.core.world import Known, Source, World
from shared.sparkplug.datatypes import DataType

_UNSIGNED_BITS = {int(DataType.UInt8): 8, int(DataType.UInt16): 16, int(DataType.UInt32): 32, int(DataType.Boolean): 1}


def asks_rebirth(payload: Message) -> bool:
    """Whether an NCMD is a rebirth request."""
    return any(one.get("name") == REBIRTH and one.get("boolean_value") for one in payload.all("metrics"))


class CommandJudge:
    """Judges NCMD and DCMD."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world, self._ledger = world, ledger

    def published(self, event: Publish, name: Name) -> None:
        """A command."""
        kind = name.type.lower()
        with self._ledger.case(event.at_ms, event.topic) as case:
            case.check("topic.form", name.well_formed, f"{name.parts} levels")
            case.check(f"{kind}.topic", name.well_formed, f"{name.parts} levels")
            shape = "topic.with-device" if name.of_device else "topic.without-device"
            case.check(shape, name.well_formed, f"{name.type} with {name.parts} levels")
            case.check(f"{kind}.qos", event.qos == 0, f"QoS {event.qos}")
            case.check(f"{kind}.retain", not event.retain, "retained")
            if not name.well_formed:
                return
            try:
                payload = read_payload(event.payload)
            except Unreadable as error:
                for rule in (f"{kind}.timestamp", f"{kind}.metrics"):
                    case.check(rule, False, f"the payload is no protobuf of Sparkplug: {error}")
                return
            case.check(f"{kind}.timestamp", payload.has("timestamp"), "no timestamp")
            case.check(f"{kind}.seq", not payload.has("seq"), f"seq {payload.get('seq')}")
            case.check(f"{kind}.metrics", payload.all("metrics"), "no metric")
            self._metrics(case, event, name, payload.all("metrics"))

    def foreign(self, event: Publish, name: Name) -> None:
        """A host published a message of an edge node's type to write to it."""
        rule = "dcmd.verb" if name.of_device else "ncmd.verb"
        self._ledger.judge(rule, False, event.at_ms, event.topic, f"a host published {name.type}")

    def _metrics(self, case: Case, event: Publish, name: Name, metrics: list[Message]) -> None:
        node = self._world.nodes.get(NodeKey(event.server, name.group, name.node))
        for metric in metrics:
            label = f"'{metric.get('name')}'" if metric.has("name") else f"alias {metric.get('alias')}"
            check_reference(case, metric, label)
            if metric.has("timestamp"):
                case.check("command.time", True)
            self._request(case, name, metric)
            if node is None or not node.seen_birth:
                continue
            place = Place(name, node, node.source(name.device) or Source())
            found = find(place, metric)
            kind = name.type.lower()
            case.check(f"{kind}.verb", found is not None or not self._elsewhere(place, metric), f"{label}: wrong verb")
            case.check(f"{kind}.name", found is not None, f"{label} was not in the birth")
            if found is not None:
                fault = _unfit(metric, found[1].datatype)
                case.check(f"{kind}.value", not fault, f"{label}: {fault}")
                self._alias(case, metric, found[0], found[1])

    def _alias(self, case: Case, metric: Message, name: str, known: Known) -> None:
        if known.aliased and not metric.has("alias"):
            case.check("alias.data", False, f"'{name}' has an alias in the birth, but is named here")

    def _elsewhere(self, place: Place, metric: Message) -> bool:
        """Whether a metric that this node or device has not belongs to the other kind."""
        name = metric.get("name")
        if place.name.of_device:
            return name in place.node.own.metrics
        return any(name in source.metrics for source in place.node.devices.values())

    def _request(self, case: Case, name: Name, metric: Message) -> None:
        given = metric.get("name")
        if given is None or given.casefold().replace(" ", "") != REBIRTH.casefold().replace(" ", ""):
            return
        case.check("request.verb", name.type == "NCMD", f"a rebirth request as {name.type}")
        case.check("request.name", given == REBIRTH, f"'{given}'")
        case.check("request.value", metric.get("boolean_value") == 1, f"values {value_fields(metric)}, not true")


def _unfit(metric: Message, datatype: int) -> str:
    """Why a value cannot be written to a metric of this type; '' if it can."""
    values = value_fields(metric)
    if metric.get("is_null"):
        return "value and is_null" if values else ""
    wanted = field_of(datatype)
    if values != [wanted]:
        return f"{values or 'no value'}, type {datatype} needs {wanted}"
    bits = _UNSIGNED_BITS.get(datatype)
    if bits is not None and metric.get(wanted) >= 1 << bits:
        return f"{metric.get(wanted)} is out of range of type {datatype}"
    return ""
