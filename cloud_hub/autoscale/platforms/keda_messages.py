"""The messages of KEDA's external scaler (package `externalscaler`), described for the protobuf runtime.

The definition is small and stable, so it is written down here instead of code that a compiler generates. Source:
pkg/scalers/externalscaler/externalscaler.proto of KEDA.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "externalscaler"
SERVICE = f"{PACKAGE}.ExternalScaler"
_Field = descriptor_pb2.FieldDescriptorProto

# message -> fields, numbered from 1: (name, type); a type with [] is repeated
MESSAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "ScaledObjectRef": (("name", "string"), ("namespace", "string"), ("scalerMetadata", "map")),
    "IsActiveResponse": (("result", "bool"),),
    "MetricSpec": (("metricName", "string"), ("targetSize", "int64"), ("targetSizeFloat", "double")),
    "GetMetricSpecResponse": (("metricSpecs", "MetricSpec[]"),),
    "GetMetricsRequest": (("scaledObjectRef", "ScaledObjectRef"), ("metricName", "string")),
    "MetricValue": (("metricName", "string"), ("metricValue", "int64"), ("metricValueFloat", "double")),
    "GetMetricsResponse": (("metricValues", "MetricValue[]"),),
}
SCALARS = {
    "string": _Field.TYPE_STRING, "bool": _Field.TYPE_BOOL, "int64": _Field.TYPE_INT64, "double": _Field.TYPE_DOUBLE,
}  # fmt: skip


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="externalscaler.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, 1):
            _add_field(message, name, number, field, kind)
    return file


def _add_field(message: Any, parent: str, number: int, name: str, kind: str) -> None:
    repeated = kind.endswith("[]") or kind == "map"
    added = message.field.add(
        name=name, number=number, label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    )
    if kind in SCALARS:
        added.type = SCALARS[kind]
        return
    added.type = _Field.TYPE_MESSAGE
    if kind != "map":
        added.type_name = f".{PACKAGE}.{kind.removesuffix('[]')}"
        return
    entry = message.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
    entry.options.map_entry = True
    for position, part in enumerate(("key", "value"), 1):
        entry.field.add(name=part, number=position, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
    added.type_name = f".{PACKAGE}.{parent}.{entry.name}"


_CLASSES = message_factory.GetMessages([_file()], pool=descriptor_pool.DescriptorPool())
(
    ScaledObjectRef,
    IsActiveResponse,
    MetricSpec,
    GetMetricSpecResponse,
    GetMetricsRequest,
    MetricValue,
    GetMetricsResponse,
) = (_CLASSES[f"{PACKAGE}.{name}"] for name in MESSAGES)
