"""Writes Sparkplug B payloads. Strict: what the specification forbids is refused, not sent.

Negative integers of up to 32 bit are sign-extended to 32 bit, as the reference implementation and the TCK do
(docs/adr/0025-sparkplug-codec.md). Fields are in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.sparkplug.datatypes import BASIC, METRIC, PROPERTY, DataType
from shared.sparkplug.payload import (
    BAD,
    GOOD,
    QUALITY,
    STALE,
    DataSet,
    MetaData,
    Metric,
    Parameter,
    Payload,
    Property,
    PropertySet,
    Template,
    Untyped,
    Value,
)
from shared.sparkplug.values import KINDS
from shared.sparkplug.wire import SMALL, write_varint
from shared.sparkplug.writers import (
    CELL_TAGS,
    KIND,
    METRIC_TAGS,
    PARAMETER_TAGS,
    PROPERTY_TAGS,
    WRITERS,
    Tags,
    Writer,
    sized,
)

MAX_DEPTH = 8
"""Templates in templates and property sets in property sets; also the default of our decoder."""

_SIMPLE: dict[DataType | None, tuple[bytes, bytes, Writer]] = {
    one: (b"\x20" + SMALL[one], METRIC_TAGS[KIND[one]], writer) for one, writer in WRITERS.items()
}
"""Datatype field, tag of the value and its writer, for metrics of simple and array types."""
_SIMPLE_PROPERTIES: dict[DataType | None, tuple[bytes, Writer]] = {
    one: (b"\x08" + SMALL[one] + PROPERTY_TAGS[KIND[one]], WRITERS[one]) for one in BASIC
}
"""Type field and tag of the value, and its writer, for properties of basic types."""
_TYPE_OF_KIND = {
    KIND[one]: one
    for one in (
        DataType.UInt32, DataType.UInt64, DataType.Float, DataType.Double, DataType.Boolean, DataType.String,
        DataType.Bytes, DataType.DataSet, DataType.Template, DataType.PropertySet, DataType.PropertySetList,
    )
}  # fmt: skip
"""The datatype that writes the raw content of an `Untyped` value."""


def encode(payload: Payload, *, with_datatypes: bool = True) -> bytes:
    """The bytes of `payload`. Raises ValueError that names the metric, what is wrong and what to do.

    Every metric needs its datatype (or an `Untyped` value). With `with_datatypes=False` the datatypes of metrics only
    choose the encoding and are not sent: the form that the specification recommends for DATA and CMD messages. Members
    of templates and properties keep theirs.
    """
    parts = []
    if payload.timestamp is not None:
        parts.append(b"\x08" + _number("timestamp", payload.timestamp))
    time, stamp = None, b""
    for metric in payload.metrics:
        try:
            if metric.timestamp != time:
                time, stamp = metric.timestamp, _stamp(metric.timestamp)
            parts.append(b"\x12" + sized(_metric(metric, stamp, with_datatypes, 0)))
        except (ValueError, TypeError, AttributeError) as error:
            raise _about(metric, error) from None
    if payload.seq is not None:
        parts.append(b"\x18" + _number("seq", payload.seq, 255))
    if payload.uuid is not None:
        parts.append(b"\x22" + _label("uuid", payload.uuid))
    if payload.body is not None:
        parts.append(b"\x2a" + sized(payload.body))
    return b"".join(parts)


def _stamp(time: int | None) -> bytes:
    return b"" if time is None else b"\x18" + _number("timestamp", time)


def _number(what: str, number: int, high: int = (1 << 64) - 1) -> bytes:
    if number.__class__ is not int or not 0 <= number <= high:
        raise ValueError(f"{what} is an int of 0 to {high}, not {number!r}")
    return SMALL[number] if number < 0x80 else write_varint(number)


def _label(what: str, text: str) -> bytes:
    """Length and bytes of a text that is no value."""
    if not isinstance(text, str):
        raise ValueError(f"{what} is str, not {type(text).__name__}")
    try:
        return sized(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half of a surrogate pair, which UTF-8 cannot encode") from None


def _about(metric: Metric, error: Exception) -> ValueError:
    """The error, beginning with the metric's name."""
    name = metric.alias if metric.name is None else metric.name
    return ValueError(f"metric {name!r}: {error}")


def _metric(metric: Metric, stamp: bytes, with_datatype: bool, depth: int) -> bytes:
    """A metric's fields in order; `stamp` is its time, encoded."""
    name, alias, datatype, value = metric.name, metric.alias, metric.datatype, metric.value
    if name:
        head = b"\x0a" + _label("the name", name)
    elif name is not None or alias is None:
        raise ValueError("it has neither a name nor an alias; give it one")
    else:
        head = b""
    if alias is not None:
        head += b"\x10" + _number("alias", alias)
    head += stamp
    simple = _SIMPLE.get(datatype)
    if simple is None or value is None:
        head += _datatype(datatype, with_datatype)
    elif with_datatype:
        head += simple[0]
    if metric.is_historical or metric.is_transient or metric.properties or metric.metadata or value is None:
        head += _rare_fields(metric)
    if value is None:
        return head
    return head + (simple[1] + simple[2](value) if simple else _field(METRIC_TAGS, datatype, value, depth))


def _datatype(datatype: DataType | None, with_datatype: bool) -> bytes:
    if datatype is None:
        return b""
    if datatype not in METRIC:
        raise ValueError(f"no metric can be {datatype!r}; give it the datatype of its value")
    return b"\x20" + SMALL[datatype] if with_datatype else b""


def _rare_fields(metric: Metric) -> bytes:
    """The fields between the datatype and the value."""
    written = b"\x28\x01" if metric.is_historical else b""
    if metric.is_transient:
        written += b"\x30\x01"
    if metric.value is None:
        written += b"\x38\x01"
    if metric.metadata is not None:
        written += b"\x42" + sized(_metadata(metric.metadata))
    if metric.properties:
        written += b"\x4a" + sized(_property_set(metric.properties, 0))
    return written


def _field(tags: Tags, datatype: DataType | None, value: Value, depth: int) -> bytes:
    """A value field, tag and content."""
    if datatype is not None:
        return tags[KIND[datatype]] + _content(datatype, value, depth)
    if not isinstance(value, Untyped):
        raise ValueError("it has no datatype; give it the one of its birth")
    kind = KINDS[value.field]
    if kind not in tags:
        raise ValueError(f"there is no field {value.field} here")
    return tags[kind] + _content(_TYPE_OF_KIND[kind], value.raw, depth)


def _content(datatype: DataType, value: Value, depth: int) -> bytes:
    writer = WRITERS.get(datatype)
    return sized(_composite(datatype, value, depth)) if writer is None else writer(value)


def _composite(datatype: DataType, value: Value, depth: int) -> bytes:
    if depth >= MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep; make it flatter")
    if datatype is DataType.DataSet and isinstance(value, DataSet):
        return _data_set(value)
    if datatype is DataType.Template and isinstance(value, Template):
        return _template(value, depth + 1)
    if datatype is DataType.PropertySet and isinstance(value, Mapping):
        return _property_set(value, depth + 1)
    if datatype is DataType.PropertySetList and isinstance(value, tuple):
        return b"".join(b"\x0a" + sized(_composite(DataType.PropertySet, one, depth)) for one in value)
    raise ValueError(f"{datatype.name} takes no {type(value).__name__}")


def _data_set(table: DataSet) -> bytes:
    width = len(table.columns)
    if len(table.types) != width:
        raise ValueError(f"the DataSet has {width} columns and {len(table.types)} types; give each column its type")
    for one in table.types:
        if one not in BASIC:
            raise ValueError(f"a column of a DataSet cannot be {one!r}; only basic types (1 to 15) are allowed")
    parts = [b"\x08" + _number("num_of_columns", width)]
    parts += [b"\x12" + _label("a column's name", one) for one in table.columns]
    parts += [b"\x18" + SMALL[one] for one in table.types]
    parts += [b"\x22" + sized(_row(table, row)) for row in table.rows]
    return b"".join(parts)


def _row(table: DataSet, row: tuple[Value, ...]) -> bytes:
    if len(row) != len(table.types):
        raise ValueError(f"a row of the DataSet has {len(row)} cells, but there are {len(table.types)} columns")
    return b"".join(
        b"\x0a" + (b"\x00" if cell is None else sized(_field(CELL_TAGS, datatype, cell, 0)))
        for datatype, cell in zip(table.types, row, strict=True)
    )


def _template(template: Template, depth: int) -> bytes:
    if template.is_definition is None:
        raise ValueError("the Template's is_definition is missing; set it to True or False")
    if template.is_definition and template.template_ref is not None:
        raise ValueError("a Template definition has no template_ref; leave it out")
    if not template.is_definition and not template.template_ref:
        raise ValueError("a Template instance needs template_ref, the name of its definition")
    parts = [] if template.version is None else [b"\x0a" + _label("the version", template.version)]
    parts += [b"\x12" + sized(_member(one, depth)) for one in template.metrics]
    parts += [b"\x1a" + sized(_parameter(one, template.is_definition)) for one in template.parameters]
    if template.template_ref is not None:
        parts.append(b"\x22" + _label("template_ref", template.template_ref))
    return b"".join([*parts, b"\x28\x01" if template.is_definition else b"\x28\x00"])


def _member(metric: Metric, depth: int) -> bytes:
    try:
        return _metric(metric, _stamp(metric.timestamp), True, depth)
    except (ValueError, TypeError, AttributeError) as error:
        raise _about(metric, error) from None


def _parameter(parameter: Parameter, of_definition: bool) -> bytes:
    if parameter.type is not None and parameter.type not in BASIC:
        raise ValueError(f"parameter {parameter.name!r} cannot be {parameter.type!r}; only basic types are allowed")
    if parameter.type is None and of_definition:
        raise ValueError(f"parameter {parameter.name!r} has no type; a definition needs it")
    written = b"\x0a" + _label("a parameter's name", parameter.name)
    if parameter.type is not None:
        written += b"\x10" + SMALL[parameter.type]
    if parameter.value is None:
        return written
    return written + _field(PARAMETER_TAGS, parameter.type, parameter.value, 0)


def _property_set(properties: PropertySet, depth: int) -> bytes:
    keys = [b"\x0a" + _label("a property's key", key) for key in properties]
    found = [b"\x12" + sized(_property(key, one, depth)) for key, one in properties.items()]
    return b"".join(keys + found)


def _property(key: str, one: Property, depth: int) -> bytes:
    if key == QUALITY and (one.type is not DataType.Int32 or one.value not in (BAD, GOOD, STALE)):
        raise ValueError(
            f"property {QUALITY} is Int32 {BAD} (bad), {GOOD} (good) or {STALE} (stale), not {one.value!r}"
        )
    try:
        simple = _SIMPLE_PROPERTIES.get(one.type)
        if simple is not None and one.value is not None:
            return simple[0] + simple[1](one.value)
        return _rare_property(one, depth)
    except ValueError as error:
        raise ValueError(f"property {key!r}: {error}") from None


def _rare_property(one: Property, depth: int) -> bytes:
    """A property that is null, untyped or a property set."""
    if one.type is not None and one.type not in PROPERTY:
        raise ValueError(f"it cannot be {one.type!r}; only basic types and property sets are allowed")
    written = b"" if one.type is None else b"\x08" + SMALL[one.type]
    return written + (b"\x10\x01" if one.value is None else _field(PROPERTY_TAGS, one.type, one.value, depth))


def _metadata(metadata: MetaData) -> bytes:
    parts = []
    if metadata.is_multi_part is not None:
        parts.append(b"\x08\x01" if metadata.is_multi_part else b"\x08\x00")
    for tag, what in _METADATA:
        found = getattr(metadata, what)
        if found is not None:
            parts.append(tag + (_number(what, found) if what in ("size", "seq") else _label(what, found)))
    return b"".join(parts)


_METADATA = (
    (b"\x12", "content_type"), (b"\x18", "size"), (b"\x20", "seq"), (b"\x2a", "file_name"), (b"\x32", "file_type"),
    (b"\x3a", "md5"), (b"\x42", "description"),
)  # fmt: skip
