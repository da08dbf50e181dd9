"""Reads what stands inside metrics: DataSets, Templates, properties, metadata.

A rule broken inside a DataSet or Template makes that value `Invalid`, one inside a property only the property.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeAlias

from shared.errors import WireError
from shared.sparkplug import values
from shared.sparkplug.datatypes import BASIC, BY_CODE, PROPERTY, DataType
from shared.sparkplug.limits import Limits
from shared.sparkplug.payload import (
    DataSet,
    Invalid,
    MetaData,
    Metric,
    Parameter,
    Property,
    PropertySet,
    Template,
    Untyped,
    Value,
)
from shared.sparkplug.wire import FIXED32, FIXED64, LENGTH, VARINT, Refused, field, fields, too_long, unexpected, varint

_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
_WIRE_TYPES = (VARINT, VARINT, FIXED32, FIXED64, VARINT, LENGTH)
"""Wire types of the kinds of value fields INT to STRING, which all four messages with values have."""
_NO_KIND = -1
_SHORT, _MOST_KNOWN = 32, 1024
"""Bytes of a property value, and how many of them, that a message's cache keeps."""


class Context:
    """The message that is read, its limits, and how many items it may still hold."""

    __slots__ = ("data", "left", "limits", "properties", "time", "time_bytes")

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.data, self.limits, self.left = data, limits, limits.max_items
        self.time, self.time_bytes = 0, b"\0"
        """The last time read, and its bytes: most metrics of a message have the same."""
        self.properties: dict[bytes, Property] = {}
        """Short property values by their bytes: the metrics of a birth share units, ranges and qualities."""

    def count(self, items: int = 1) -> None:
        """Take items off what is left. Raises Refused when nothing is left."""
        self.left -= items
        if self.left < 0:
            raise Refused(f"the message holds more than {self.limits.max_items} items")

    def enter(self, depth: int) -> int:
        """The depth below `depth`. Raises Refused if that is too deep."""
        if depth >= self.limits.max_depth:
            raise Refused(f"it is nested more than {self.limits.max_depth} deep")
        return depth + 1

    def name(self, start: int, stop: int) -> str:
        """A name, key or other label. Raises WireError if it is too long, UnicodeDecodeError if it is no UTF-8."""
        if stop - start > self.limits.max_name:
            raise WireError(f"a name has {stop - start} bytes, at most {self.limits.max_name} are allowed")
        return self.data[start:stop].decode()

    def text(self, start: int, stop: int) -> str:
        """A string value. Raises Refused if it is too long or no UTF-8."""
        if stop - start > self.limits.max_text:
            raise Refused(f"the string has {stop - start} bytes, at most {self.limits.max_text} are allowed")
        try:
            return self.data[start:stop].decode()
        except UnicodeDecodeError:
            raise Refused("the string is no UTF-8") from None

    def blob(self, start: int, stop: int) -> bytes:
        """A bytes value. Raises Refused if it is too long."""
        if stop - start > self.limits.max_blob:
            raise Refused(f"the value has {stop - start} bytes, at most {self.limits.max_blob} are allowed")
        return self.data[start:stop]


MetricReader: TypeAlias = Callable[[Context, int, int, int], Metric]
"""(context, start, stop, depth) -> the metric there."""


def datatype(code: int) -> DataType:
    """The datatype of a code. Raises Refused if there is none."""
    found = BY_CODE.get(code)
    if found is None:
        raise Refused(f"there is no datatype {code}")
    return found


def _scalar(context: Context, tag: int, start: int, stop: int, first: int) -> tuple[int, Value]:
    """(kind, raw) of a value field whose numbers begin with `first`; (_NO_KIND, None) if it is none."""
    kind = (tag >> 3) - first
    if not 0 <= kind <= values.STRING:
        return _NO_KIND, None
    if tag & 7 != _WIRE_TYPES[kind]:
        unexpected(tag, tag >> 3)
    if kind == values.INT:
        return kind, start & 0xFFFF_FFFF
    if kind == values.LONG:
        return kind, start
    if kind == values.FLOAT:
        return kind, _FLOAT.unpack_from(context.data, start)[0]
    if kind == values.DOUBLE:
        return kind, _DOUBLE.unpack_from(context.data, start)[0]
    if kind == values.BOOLEAN:
        return kind, start != 0
    return kind, context.text(start, stop)


def data_set(context: Context, start: int, stop: int) -> DataSet:
    """The DataSet at `start`. Raises Refused for rows and columns that do not fit."""
    columns: list[str] = []
    types: list[DataType] = []
    rows: list[tuple[int, int]] = []
    declared = None
    for tag, first, last in fields(context.data, start, stop):
        if tag == 0x08:
            declared = first
        elif tag == 0x12:
            context.count()
            columns.append(context.name(first, last))
        elif tag == 0x18:
            types.append(_column_type(context, first))
        elif tag == 0x1A:  # packed, as proto3 encoders write repeated numbers
            types.extend(_packed_types(context, first, last))
        elif tag == 0x22:
            context.count()
            rows.append((first, last))
        else:
            unexpected(tag, 4)
    if len(columns) != len(types) or declared not in (None, len(columns)):
        raise Refused(f"DataSet has {len(columns)} columns and {len(types)} types, num_of_columns is {declared}")
    return DataSet(columns=tuple(columns), types=tuple(types), rows=tuple([_row(context, types, *row) for row in rows]))


def _column_type(context: Context, code: int) -> DataType:
    context.count()
    found = datatype(code)
    if found not in BASIC:
        raise Refused(f"DataSet has a column of type {found.name}, which is no basic type")
    return found


def _packed_types(context: Context, pos: int, stop: int) -> list[DataType]:
    found = []
    while pos < stop:
        code, pos = varint(context.data, pos)
        found.append(_column_type(context, code))
    if pos > stop:
        raise too_long()
    return found


def _row(context: Context, types: list[DataType], start: int, stop: int) -> tuple[Value, ...]:
    cells: list[Value] = []
    for tag, first, last in fields(context.data, start, stop):
        if tag != 0x0A:
            unexpected(tag, 1)
            continue
        context.count()
        if len(cells) == len(types):
            raise Refused(f"DataSet has a row of more than {len(types)} cells")
        cells.append(_cell(context, types[len(cells)], first, last))
    if len(cells) != len(types):
        raise Refused(f"DataSet has a row of {len(cells)} cells, but {len(types)} columns")
    return tuple(cells)


def _cell(context: Context, column: DataType, start: int, stop: int) -> Value:
    kind, raw = _NO_KIND, None
    for tag, first, last in fields(context.data, start, stop):
        found = _scalar(context, tag, first, last, 1)
        if found[0] == _NO_KIND:
            unexpected(tag, 6)
        else:
            kind, raw = found
    return None if kind == _NO_KIND else values.read(column, kind, raw)


def template(context: Context, start: int, stop: int, depth: int, metric: MetricReader) -> Template:
    """The Template at `start`; its members are read by `metric`."""
    depth = context.enter(depth)
    version = template_ref = is_definition = None
    members: list[Metric] = []
    parameters: list[Parameter] = []
    for tag, first, last in fields(context.data, start, stop):
        if tag == 0x0A:
            version = context.name(first, last)
        elif tag == 0x12:
            context.count()
            members.append(metric(context, first, last, depth))
        elif tag == 0x1A:
            context.count()
            parameters.append(_parameter(context, first, last))
        elif tag == 0x22:
            template_ref = context.name(first, last)
        elif tag == 0x28:
            is_definition = first != 0
        else:
            unexpected(tag, 5)
    return Template(
        is_definition=is_definition,
        template_ref=template_ref,
        version=version,
        metrics=tuple(members),
        parameters=tuple(parameters),
    )


def _parameter(context: Context, start: int, stop: int) -> Parameter:
    name: str | None = None
    kind, raw, of_type = _NO_KIND, None, None
    for tag, first, last in fields(context.data, start, stop):
        if tag == 0x0A:
            name = context.name(first, last)
        elif tag == 0x10:
            of_type = datatype(first)
        else:
            found = _scalar(context, tag, first, last, 3)
            if found[0] == _NO_KIND:
                unexpected(tag, 8)
            else:
                kind, raw = found
    if name is None:
        raise Refused("a parameter of the Template has no name")
    if of_type is not None and of_type not in BASIC:
        raise Refused(f"a parameter of the Template is of type {of_type.name}, which is no basic type")
    return Parameter(name=name, type=of_type, value=_judged(of_type, kind, raw))


def _judged(of_type: DataType | None, kind: int, raw: Value) -> Value:
    if kind == _NO_KIND:
        return None
    if of_type is None:
        return Untyped(values.FIELDS[kind], raw)
    return values.read(of_type, kind, raw)


def property_set(context: Context, start: int, stop: int, depth: int) -> PropertySet:
    """The properties at `start`. If keys and values do not pair up, every key has an `Invalid` value."""
    depth = context.enter(depth)
    keys: list[str] = []
    found: list[Property] = []
    data, pos = context.data, start
    while pos < stop:
        tag, first = data[pos], pos + 2
        if tag not in (0x0A, 0x12):
            tag, _, _, pos = field(data, pos, stop)
            unexpected(tag, 2)
            continue
        size = data[pos + 1]
        if size > 0x7F:
            size, first = varint(data, pos + 1)
        pos = first + size
        if pos > stop:
            raise too_long()
        context.count()
        if tag == 0x0A:
            keys.append(context.name(first, pos))
        else:
            found.append(_known_property(context, first, pos, depth))
    if len(keys) != len(found):
        broken = Property(None, Invalid(f"the PropertySet has {len(keys)} keys and {len(found)} values"))
        return dict.fromkeys(keys or [""], broken)
    return dict(zip(keys, found, strict=True))


def _known_property(context: Context, start: int, stop: int, depth: int) -> Property:
    if stop - start > _SHORT:
        return _property(context, start, stop, depth)
    content = context.data[start:stop]
    found = context.properties.get(content)
    if found is None:
        found = _property(context, start, stop, depth)
        if len(context.properties) < _MOST_KNOWN and not isinstance(found.value, dict | tuple | Invalid):
            context.properties[content] = found
    return found


def _property(context: Context, start: int, stop: int, depth: int) -> Property:
    of_type: DataType | None = None
    code, is_null, reason = None, False, ""
    kind = _NO_KIND
    raw: Value = None
    for tag, first, last in fields(context.data, start, stop):
        try:
            if tag == 0x08:
                code = first
            elif tag == 0x10:
                is_null = first != 0
            elif tag == 0x4A:
                kind, raw = values.PROPERTYSET, property_set(context, first, last, depth)
            elif tag == 0x52:
                kind, raw = values.PROPERTYSETS, _property_sets(context, first, last, depth)
            else:
                found = _scalar(context, tag, first, last, 3)
                if found[0] == _NO_KIND:
                    unexpected(tag, 10)
                else:
                    kind, raw = found
        except Refused as error:
            kind, raw, reason = _NO_KIND, None, str(error)
    try:
        of_type = None if code is None else datatype(code)
        if of_type is not None and of_type not in PROPERTY:
            raise Refused(f"a property is of type {of_type.name}, which is none of properties")
        if reason or (kind == _NO_KIND and not is_null):
            raise Refused(reason or "the property has no value and is not null")
        return Property(of_type, None if is_null else _judged(of_type, kind, raw))
    except Refused as error:
        return Property(of_type, Invalid(str(error)))


def _property_sets(context: Context, start: int, stop: int, depth: int) -> tuple[PropertySet, ...]:
    found = []
    for tag, first, last in fields(context.data, start, stop):
        if tag == 0x0A:
            context.count()
            found.append(property_set(context, first, last, depth))
        else:
            unexpected(tag, 1)
    return tuple(found)


def metadata(context: Context, start: int, stop: int) -> MetaData:
    """The MetaData at `start`."""
    found: dict[str, bool | int | str] = {}
    for tag, first, last in fields(context.data, start, stop):
        if tag == 0x08:
            found["is_multi_part"] = first != 0
        elif tag in _METADATA_NUMBERS:
            found[_METADATA_NUMBERS[tag]] = first
        elif tag in _METADATA_TEXTS:
            found[_METADATA_TEXTS[tag]] = context.name(first, last)
        else:
            unexpected(tag, 8)
    return MetaData(**found)  # type: ignore[arg-type]


_METADATA_NUMBERS = {0x18: "size", 0x20: "seq"}
_METADATA_TEXTS = {
    0x12: "content_type", 0x2A: "file_name", 0x32: "file_type", 0x3A: "md5", 0x42: "description",
}  # fmt: skip
