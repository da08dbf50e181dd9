"""The peer of our Sparkplug codec on Google's `protobuf` runtime, for `benchmarks.sparkplug_codec` and its tests.

The message classes are made at run time from a field table, so that no generated code is needed. Read and written are
the parts that the benchmark uses: scalar metrics with properties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from shared.sparkplug.datatypes import BY_CODE, DataType
from shared.sparkplug.payload import Metric, Payload, Property
from shared.sparkplug.values import FIELDS, KINDS, read
from shared.sparkplug.writers import KIND

PACKAGE = "tidegate.benchmark.sparkplug"
_KINDS = {"u32": 13, "u64": 4, "f32": 2, "f64": 1, "bool": 8, "str": 9, "bytes": 12}
"""Numbers of FieldDescriptorProto.Type."""
_SCALARS = (
    ("int_value", "u32"), ("long_value", "u64"), ("float_value", "f32"), ("double_value", "f64"),
    ("boolean_value", "bool"), ("string_value", "str"),
)  # fmt: skip
Fields = list[tuple[int, str, str, bool, bool]]
"""(number, name, type, repeated, in the oneof `value`)."""


def _values(first: int, *more: tuple[str, str]) -> Fields:
    return [(n, name, kind, False, True) for n, (name, kind) in enumerate((*_SCALARS, *more), first)]


def _plain(*names: tuple[str, str]) -> Fields:
    return [(n, name, kind.rstrip("*"), kind.endswith("*"), False) for n, (name, kind) in enumerate(names, 1)]


MESSAGES: dict[str, Fields] = {
    "Payload": _plain(("timestamp", "u64"), ("metrics", "Metric*"), ("seq", "u64"), ("uuid", "str"), ("body", "bytes")),
    "Metric": _plain(
        ("name", "str"), ("alias", "u64"), ("timestamp", "u64"), ("datatype", "u32"), ("is_historical", "bool"),
        ("is_transient", "bool"), ("is_null", "bool"), ("metadata", "MetaData"), ("properties", "PropertySet"),
    ) + _values(10, ("bytes_value", "bytes"), ("dataset_value", "DataSet"), ("template_value", "Template")),
    "MetaData": _plain(
        ("is_multi_part", "bool"), ("content_type", "str"), ("size", "u64"), ("seq", "u64"), ("file_name", "str"),
        ("file_type", "str"), ("md5", "str"), ("description", "str"),
    ),
    "PropertySet": _plain(("keys", "str*"), ("values", "PropertyValue*")),
    "PropertySetList": _plain(("propertyset", "PropertySet*")),
    "PropertyValue": _plain(("type", "u32"), ("is_null", "bool"))
    + _values(3, ("propertyset_value", "PropertySet"), ("propertysets_value", "PropertySetList")),
    "DataSet": _plain(("num_of_columns", "u64"), ("columns", "str*"), ("types", "u32*"), ("rows", "Row*")),
    "Row": _plain(("elements", "DataSetValue*")),
    "DataSetValue": _values(1),
    "Template": _plain(
        ("version", "str"), ("metrics", "Metric*"), ("parameters", "Parameter*"), ("template_ref", "str"),
        ("is_definition", "bool"),
    ),
    "Parameter": _plain(("name", "str"), ("type", "u32")) + _values(3),
}  # fmt: skip


def _build() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE, syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        message.oneof_decl.add(name="value")
        for number, field, kind, repeated, of_value in fields:
            one = message.field.add(name=field, number=number, label=3 if repeated else 1, type=_KINDS.get(kind, 11))
            if kind not in _KINDS:
                one.type_name = f".{PACKAGE}.{kind}"
            if of_value:
                one.oneof_index = 0
        if not message.field or not any(one.HasField("oneof_index") for one in message.field):
            message.ClearField("oneof_decl")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Payload"))


MESSAGE: Any = _build()
_FIELD_OF = {one: FIELDS[kind] for one, kind in KIND.items()}


def codec(payload: Payload) -> tuple[Callable[[], bytes], Callable[[bytes], Payload], bytes]:
    """(encode this payload, decode bytes, the bytes)."""

    def encode() -> bytes:
        return written(payload)

    return encode, decoded, encode()


def written(payload: Payload) -> bytes:
    """The bytes by the runtime; scalar metrics, with their datatypes."""
    message = MESSAGE()
    message.timestamp, message.seq = payload.timestamp, payload.seq
    for metric in payload.metrics:
        one = message.metrics.add()
        if metric.name is not None:
            one.name = metric.name
        if metric.alias is not None:
            one.alias = metric.alias
        one.timestamp = metric.timestamp
        one.datatype = metric.datatype
        setattr(one, _FIELD_OF[metric.datatype or DataType.Unknown], metric.value)
        if metric.properties:
            one.properties.keys.extend(metric.properties)
            for found in metric.properties.values():
                value = one.properties.values.add()
                value.type = found.type
                setattr(value, _FIELD_OF[found.type or DataType.Unknown], found.value)
    content: bytes = message.SerializeToString()
    return content


def decoded(content: bytes) -> Payload:
    """The payload as read by the runtime, in our classes; values as strict as ours."""
    message = MESSAGE.FromString(content)
    return Payload(
        timestamp=message.timestamp, seq=message.seq, metrics=tuple([_metric(one) for one in message.metrics])
    )


def _metric(one: Any) -> Metric:
    datatype = BY_CODE[one.datatype]
    field = one.WhichOneof("value")
    value = None if one.is_null else read(datatype, KINDS[field], getattr(one, field))
    return Metric(
        name=one.name if one.HasField("name") else None,
        alias=one.alias if one.HasField("alias") else None,
        timestamp=one.timestamp if one.HasField("timestamp") else None,
        datatype=datatype,
        value=value,
        is_historical=one.is_historical,
        is_transient=one.is_transient,
        properties=_properties(one.properties) if one.HasField("properties") else None,
    )


def _properties(found: Any) -> dict[str, Property]:
    return dict(zip(found.keys, map(_property, found.values), strict=True))


def _property(one: Any) -> Property:
    datatype, field = BY_CODE[one.type], one.WhichOneof("value")
    return Property(datatype, None if one.is_null else read(datatype, KINDS[field], getattr(one, field)))
