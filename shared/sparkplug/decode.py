"""Reads Sparkplug B payloads. Everything in them is hostile: the only exception is WireError.

What is broken, and what follows:

- no protobuf (cut off, a wrong wire type, a group, a name that is no UTF-8), or beyond `Limits`: WireError;
- a value that breaks a rule of its datatype: that value is `Invalid` with the reason, the rest stands.

Unknown fields (extensions) are skipped. A field that occurs twice counts as last sent. A payload whose uuid is
`COMPRESSED` is inflated. NaN and infinities are values; who stores numbers must test with `math.isfinite`. Integers
may have 64 bits unsigned, also times and aliases. Work and memory are linear in the length of the payload.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from shared.errors import WireError
from shared.sparkplug import composites, values
from shared.sparkplug.datatypes import BY_CODE, DataType
from shared.sparkplug.limits import DEFAULT, Limits
from shared.sparkplug.payload import Invalid, Metric, Payload, Property, PropertySet, Untyped, Value
from shared.sparkplug.properties import property_set
from shared.sparkplug.reading import Context
from shared.sparkplug.values import BOOLEAN, BYTES, DATASET, DOUBLE, FIELDS, FLOAT, INT, KINDS, LONG, STRING, TEMPLATE
from shared.sparkplug.wire import Refused, field, too_long, unexpected, varint

Types: TypeAlias = Mapping["str | int", DataType]
NO_TYPES: Types = {}

COMPRESSED = "SPBV1.0_COMPRESSED"
"""The uuid of a payload whose body is another payload in zlib or gzip format. Not in the specification."""
_ZLIB_OR_GZIP = 47

_NONE, _REFUSED = -1, -2
"""Kinds beside those of `values`: no value field; a value that was refused, its content is the reason."""
_FLOAT, _DOUBLE = struct.Struct("<f").unpack_from, struct.Struct("<d").unpack_from
_PLAIN = {
    DataType.Float: FLOAT, DataType.Double: DOUBLE, DataType.Boolean: BOOLEAN, DataType.String: STRING,
    DataType.UInt32: INT, DataType.DateTime: LONG,
}  # fmt: skip
_AS_SENT = [_PLAIN.get(BY_CODE[code], -3) for code in range(len(BY_CODE))]
"""Kind of field whose content is the value itself, for the commonest datatypes; -3, which no field has, for others."""


def decode(data: bytes, limits: Limits = DEFAULT, types: Types = NO_TYPES) -> Payload:
    """The payload in `data`. Raises WireError if it is no protobuf of a Sparkplug payload, or beyond `limits`.

    `types` are the datatypes of the birth, by alias and by name. They are used for metrics that come without one, as in
    DATA; a metric that is not in `types` keeps an `Untyped` value.
    """
    payload = _decoded(data, limits, types)
    if payload.uuid != COMPRESSED:
        return payload
    payload = _decoded(_inflated(payload.body or b"", limits), limits, types)
    if payload.uuid == COMPRESSED:
        raise WireError("a compressed payload is in a compressed payload")
    return payload


def _inflated(body: bytes, limits: Limits) -> bytes:
    """The payload in a compressed one; never more than `max_bytes` of it are made."""
    reader = zlib.decompressobj(wbits=_ZLIB_OR_GZIP)
    try:
        content = reader.decompress(body, limits.max_bytes + 1)
    except zlib.error as error:
        raise WireError(f"the compressed body is neither zlib nor gzip: {error}") from None
    if len(content) <= limits.max_bytes and not reader.eof:
        raise WireError("the compressed body is cut off")
    return content


def _decoded(data: bytes, limits: Limits, types: Types) -> Payload:
    if len(data) > limits.max_bytes:
        raise WireError(f"the payload has {len(data)} bytes, at most {limits.max_bytes} are allowed")
    try:
        return _payload(Context(data, limits), types)
    except (IndexError, struct.error):
        raise WireError("the payload is cut off") from None
    except UnicodeDecodeError:
        raise WireError("a name is no UTF-8") from None
    except Refused as error:
        raise WireError(str(error)) from None


def typed(metric: Metric, datatype: DataType) -> Metric:
    """The metric with this datatype: reads its `Untyped` value. A value that does not fit becomes `Invalid`."""
    value = metric.value
    if isinstance(value, Untyped):
        value = _read(datatype, KINDS[value.field], value.raw)
    return msgspec.structs.replace(metric, datatype=datatype, value=value)


def _read(datatype: DataType, kind: int, raw: Value) -> Value:
    try:
        return values.read(datatype, kind, raw)
    except Refused as error:
        return Invalid(str(error))


def _payload(context: Context, types: Types) -> Payload:
    timestamp = seq = uuid = body = None
    metrics: list[Metric] = []
    data, pos, end = context.data, 0, len(context.data)
    while pos < end:
        if data[pos] == 0x12:
            if len(metrics) == context.limits.max_metrics:
                raise WireError(f"the payload has more than {context.limits.max_metrics} metrics")
            start, pos = _message(data, pos + 1, end)
            metrics.append(_metric(context, start, pos, 0, types))
            continue
        tag, start, stop, pos = field(data, pos, end)
        if tag == 0x08:
            timestamp = start
        elif tag == 0x18:
            seq = start
        elif tag == 0x22:
            uuid = context.name(start, stop)
        elif tag == 0x2A:
            body = context.blob(start, stop)
        else:
            unexpected(tag, 5)
    return Payload(timestamp=timestamp, metrics=tuple(metrics), seq=seq, uuid=uuid, body=body)


def _message(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """(start, stop) of the message whose length is at `pos`."""
    size = data[pos]
    if size > 0x7F:
        size, pos = varint(data, pos)
    else:
        pos += 1
    if size > end - pos:
        raise too_long()
    return pos, pos + size


def _metric(context: Context, pos: int, end: int, depth: int, types: Types = NO_TYPES) -> Metric:  # noqa: PLR0912, PLR0915
    """The metric at `pos`. One long loop, because half of a host's work is here; the commonest fields come first."""
    data = context.data
    name = alias = timestamp = code = properties = metadata = None
    historical = transient = null = False
    kind, raw = _NONE, None
    while pos < end:
        tag = data[pos]
        pos += 1
        if tag == 0x18:
            if data.startswith(context.time_bytes, pos):
                timestamp = context.time
                pos += len(context.time_bytes)
            else:
                timestamp, stop = varint(data, pos)
                context.time, context.time_bytes, pos = timestamp, data[pos:stop], stop
        elif tag == 0x0A:
            size = data[pos]
            pos += 1
            if size > 0x7F:
                size, pos = varint(data, pos - 1)
                if size > context.limits.max_name:
                    raise WireError(f"a name has {size} bytes, at most {context.limits.max_name} are allowed")
            name = data[pos : pos + size].decode()
            pos += size
        elif tag == 0x10:
            alias, pos = data[pos], pos + 1
            if alias > 0x7F:
                alias, pos = varint(data, pos - 1)
        elif tag == 0x20:
            code, pos = data[pos], pos + 1
            if code > 0x7F:
                code, pos = varint(data, pos - 1)
        elif tag == 0x65:
            kind, raw = FLOAT, _FLOAT(data, pos)[0]
            pos += 4
        elif tag == 0x69:
            kind, raw = DOUBLE, _DOUBLE(data, pos)[0]
            pos += 8
        elif tag == 0x50:
            raw, pos = varint(data, pos)
            kind, raw = INT, raw & 0xFFFF_FFFF
        elif tag == 0x58:
            kind = LONG
            raw, pos = varint(data, pos)
        elif tag == 0x70:
            raw, pos = varint(data, pos)
            kind, raw = BOOLEAN, raw != 0
        else:
            tag, start, stop, pos = field(data, pos - 1, end)
            if tag == 0x4A:
                properties = _properties(context, start, stop)
            elif tag in _COMPLEX:
                kind, raw = _complex(context, tag, start, stop, depth)
            elif tag == 0x28:
                historical = start != 0
            elif tag == 0x30:
                transient = start != 0
            elif tag == 0x38:
                null = start != 0
            elif tag == 0x42:
                metadata = composites.metadata(context, start, stop)
            else:
                unexpected(tag, 18)
    if pos != end:
        raise too_long()
    datatype = _datatype(code, name, alias, types)
    if kind == _AS_SENT[datatype or 0] and not null:
        value = raw
    else:
        value = None if null else _value(context, datatype, code, kind, raw)
    if properties is None and metadata is None and not historical and not transient:
        return Metric(name=name, alias=alias, timestamp=timestamp, datatype=datatype, value=value)
    return Metric(
        name=name, alias=alias, timestamp=timestamp, datatype=datatype, value=value,
        is_historical=historical, is_transient=transient, properties=properties, metadata=metadata,
    )  # fmt: skip


def _datatype(code: int | None, name: str | None, alias: int | None, types: Types) -> DataType | None:
    """The datatype sent, else the birth's; None if there is neither, or no such datatype."""
    if code:
        return BY_CODE.get(code)
    if name is not None:  # who sends both means the name, as for the metric itself
        return types.get(name)
    return types.get(alias) if alias is not None else None


def _value(context: Context, datatype: DataType | None, code: int | None, kind: int, raw: Value) -> Value:
    """The value of a content that is not just the value itself."""
    if kind == _REFUSED:
        return Invalid(str(raw))
    if kind == _NONE:
        return Invalid("the metric has no value and is not null")
    if datatype is None:
        return Invalid(f"there is no datatype {code}") if code else Untyped(FIELDS[kind], raw)
    value = _read(datatype, kind, raw)
    if isinstance(value, tuple):
        try:
            context.count(len(value))
        except Refused as error:
            return Invalid(str(error))
    return value


_COMPLEX = {0x7A: STRING, 0x82: BYTES, 0x8A: DATASET, 0x92: TEMPLATE}


def _complex(context: Context, tag: int, start: int, stop: int, depth: int) -> tuple[int, Value]:
    """(kind, raw) of a length-delimited value field."""
    kind = _COMPLEX[tag]
    try:
        if kind == STRING:
            return kind, context.text(start, stop)
        if kind == BYTES:
            return kind, context.blob(start, stop)
        if kind == DATASET:
            return kind, composites.data_set(context, start, stop)
        return kind, composites.template(context, start, stop, depth, _metric)
    except Refused as error:
        return _REFUSED, str(error)


def _properties(context: Context, start: int, stop: int) -> PropertySet:
    """The properties of a metric; those beyond a limit are one `Invalid` property with the key ''."""
    try:
        return property_set(context, start, stop, 0)
    except Refused as error:
        return {"": Property(None, Invalid(str(error)))}
