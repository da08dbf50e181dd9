"""Judges the metrics of births, data and commands. Source: specification 3.0, section 6.4."""

from __future__ import annotations

from dataclasses import dataclass

from cloud_hub.scada.conformance.core.complex import (
    MAX_UINT32,
    check_dataset,
    check_properties,
    check_template,
    definition_of,
)  # fmt: skip
from cloud_hub.scada.conformance.core.fields import Message, value_fields
from cloud_hub.scada.conformance.core.ledger import Case
from cloud_hub.scada.conformance.core.names import REBIRTH, Name
from cloud_hub.scada.conformance.core.world import MAX_METRICS, Known, Node, Source
from shared.sparkplug.datatypes import DataType

BDSEQ = "bdSeq"
CLOCK_MS = 10 * 60_000
"""A timestamp may differ by this from the checker's clock."""
EARLIEST_MS = 946_684_800_000
"""The year 2000: a smaller number is not milliseconds since 1970."""
METRIC_TYPES = frozenset(int(one) for one in DataType) - {
    int(DataType.Unknown), int(DataType.PropertySet), int(DataType.PropertySetList),
}  # fmt: skip

_LONG = frozenset({int(DataType.Int64), int(DataType.UInt64), int(DataType.DateTime)})
_FIELDS = {
    int(DataType.Float): "float_value", int(DataType.Double): "double_value", int(DataType.Boolean): "boolean_value",
    int(DataType.String): "string_value", int(DataType.Text): "string_value", int(DataType.UUID): "string_value",
    int(DataType.DataSet): "dataset_value", int(DataType.Template): "template_value",
}  # fmt: skip


def field_of(datatype: int) -> str:
    """The member of `oneof value` that holds values of a datatype."""
    if datatype in _LONG:
        return "long_value"
    return _FIELDS.get(datatype) or ("int_value" if datatype <= DataType.UInt32 else "bytes_value")


@dataclass(frozen=True, slots=True)
class Place:
    """Where metrics are: the message's topic, its node, and the node or device that they belong to."""

    name: Name
    node: Node
    source: Source

    @property
    def birth(self) -> bool:
        """Whether the message is a birth."""
        return self.name.type.endswith("BIRTH")

    @property
    def rules(self) -> str:
        """Prefix of the rules about births of this kind of source."""
        return "dbirth" if self.name.of_device else "nbirth"


def check_birth(case: Case, place: Place, metrics: list[Message]) -> None:
    """Judge the metrics of a birth and remember them."""
    node, source = place.node, place.source
    source.metrics = {}
    if not place.name.of_device:
        _remember_templates(node, metrics)
    for metric in metrics:
        label = _label(metric)
        _check_birth_metric(case, place, metric, label)
        _check_any(case, place, metric, label)
        _remember(node, source, place.name.device, metric)
    lower: dict[str, str] = {}
    for name in source.metrics:
        other = lower.setdefault(name.lower(), name)
        case.check("metrics.case", other == name, f"'{other}' and '{name}'")
    _check_chronological(case, place, metrics)


def _label(metric: Message) -> str:
    name = metric.get("name")
    return f"'{name}'" if name is not None else f"alias {metric.get('alias')}"


def _check_birth_metric(case: Case, place: Place, metric: Message, label: str) -> None:
    kind, values, null = metric.get("datatype"), value_fields(metric), bool(metric.get("is_null"))
    whole = metric.get("name") and kind is not None and (values or null)
    case.check(f"{place.rules}.metrics", whole, f"{label}: name, datatype or value is missing")
    one = (null and not values) or (not null and len(values) == 1)
    case.check(f"{place.rules}.values", one, f"{label}: values {values}, is_null {null}")
    case.check("datatype.birth", kind is not None, f"{label}: no datatype")
    alias = metric.get("alias")
    if alias is not None:
        case.check("alias.birth", metric.get("name"), f"alias {alias} has no name")
        owner = place.node.aliases.get(alias)
        mine = (place.name.device, metric.get("name"))
        case.check("alias.unique", owner in (None, mine), f"alias {alias}: {label} and '{owner and owner[1]}'")


def _remember(node: Node, source: Source, device: str, metric: Message) -> None:
    name, kind, alias = metric.get("name"), metric.get("datatype"), metric.get("alias")
    if name is None or len(source.metrics) >= MAX_METRICS:
        return
    source.metrics[name] = Known(kind or 0, alias is not None, _content(metric))
    if alias is not None and len(node.aliases) < MAX_METRICS:
        node.aliases.setdefault(alias, (device, name))


def _remember_templates(node: Node, metrics: list[Message]) -> None:
    node.templates = {}
    for metric in metrics:
        template = metric.get("template_value")
        if template is not None and template.get("is_definition") and len(node.templates) < MAX_METRICS:
            node.templates[str(metric.get("name"))] = definition_of(template)


def _content(metric: Message) -> object:
    """What counts as the value of a metric when asking whether it changed: value, null and quality."""
    return tuple((name, metric.get(name)) for name in (*value_fields(metric), "is_null", "properties"))


def find(place: Place, metric: Message) -> tuple[str, Known] | None:
    """The metric of the birth that a metric of data or of a command means."""
    name = metric.get("name")
    if name is None:
        device, name = place.node.aliases.get(metric.get("alias"), ("", ""))
        if device != place.name.device:
            return None
    known = place.source.metrics.get(name)
    return None if known is None else (name, known)


def check_data(case: Case, place: Place, metrics: list[Message]) -> None:
    """Judge the metrics of NDATA or DDATA."""
    kind = place.name.type.lower()
    case.check(f"{kind}.metrics", metrics, "no metric")
    changed = not metrics
    for metric in metrics:
        label = _label(metric)
        _check_any(case, place, metric, label)
        check_reference(case, metric, label)
        if not place.node.seen_birth:
            changed = True
            continue
        found = find(place, metric)
        case.check(f"{place.rules}.complete", found is not None, f"{label} was not in the birth")
        changed = _check_known(case, metric, found) or changed
    if place.node.seen_birth:
        case.check(f"{kind}.by-exception", changed, "no metric has changed since the last message")
    _check_chronological(case, place, metrics)


def check_reference(case: Case, metric: Message, label: str) -> None:
    """Judge how data or a command names a metric, and that it leaves the datatype out."""
    case.check("metric.name", metric.has("name") or metric.has("alias"), "a metric has neither name nor alias")
    case.check("datatype.data", not metric.has("datatype"), f"{label}: datatype {metric.get('datatype')}")
    if metric.has("alias"):
        case.check("alias.data", not metric.has("name"), f"{label}: alias {metric.get('alias')} and name")


def _check_known(case: Case, metric: Message, found: tuple[str, Known] | None) -> bool:
    """Judge the use of aliases; whether the metric has changed."""
    if found is None:
        return True
    name, known = found
    if known.aliased and not metric.has("alias"):
        case.check("alias.data", False, f"'{name}' has an alias in the birth, but is named here")
    content = _content(metric)
    changed = content != known.value or bool(metric.get("is_historical"))
    known.value = content
    return changed


def _check_any(case: Case, place: Place, metric: Message, label: str) -> None:
    """Judge what holds for metrics of births and data alike."""
    if place.birth:
        case.check("metric.name", metric.get("name") or metric.has("alias"), "a metric has neither name nor alias")
    time = metric.get("timestamp")
    case.check("metric.timestamp", time is not None, f"{label}: no timestamp")
    if time is not None:
        sane = EARLIEST_MS <= time <= case.at_ms + CLOCK_MS
        case.check("metric.utc", sane, f"{label}: timestamp {time}, the time is {case.at_ms}")
    kind = metric.get("datatype")
    if kind is not None:
        case.check("datatype.number", kind <= MAX_UINT32, f"{label}: datatype {kind}")
        case.check("datatype.known", kind in METRIC_TYPES, f"{label}: datatype {kind}")
    for properties in metric.all("properties"):
        check_properties(case, label, properties, birth=place.birth)
    if metric.has("dataset_value"):
        check_dataset(case, label, metric.get("dataset_value"))
    if metric.has("template_value"):
        late = not place.node.seen_birth and place.name.type != "NBIRTH"
        check_template(
            case, label, metric.get("template_value"), place.node.templates, place.name.type, late=late
        )  # fmt: skip


def _check_chronological(case: Case, place: Place, metrics: list[Message]) -> None:
    times = [one.get("timestamp") for one in metrics if not one.get("is_historical") and one.has("timestamp")]
    fault = next((index for index in range(1, len(times)) if times[index] < times[index - 1]), 0)
    rule = "device.chronological" if place.name.of_device else "node.chronological"
    if times:
        case.check(rule, not fault, f"{times[fault]} comes after {times[fault - 1]} in the list of metrics")


def check_control(case: Case, metrics: list[Message]) -> int | None:
    """Judge bdSeq and 'Node Control/Rebirth' of an NBIRTH; the bdSeq, None when it is missing."""
    rebirth = next((one for one in metrics if one.get("name") == REBIRTH), None)
    case.check("nbirth.rebirth", rebirth is not None, f"no metric '{REBIRTH}'")
    if rebirth is not None:
        case.check("nbirth.rebirth-alias", not rebirth.has("alias"), f"alias {rebirth.get('alias')}")
        kind = rebirth.get("datatype")
        case.check("nbirth.rebirth-type", kind == DataType.Boolean, f"datatype {kind}, not 11 (Boolean)")
        case.check("nbirth.rebirth-value", rebirth.get("boolean_value") == 0, f"values {value_fields(rebirth)}")
    value, kind = bdseq_of(metrics)
    case.check("nbirth.bdseq", value is not None, f"no metric '{BDSEQ}' with a number")
    case.check("nbirth.bdseq-type", kind == DataType.Int64, f"datatype {kind}, not 4 (Int64)")
    return value


def bdseq_of(metrics: list[Message]) -> tuple[int | None, int | None]:
    """(value, datatype) of bdSeq; both None when it is missing."""
    found = next((one for one in metrics if one.get("name") == BDSEQ), None)
    if found is None:
        return None, None
    value = found.get("long_value")
    return (found.get("int_value") if value is None else value), found.get("datatype")
