"""Reads DataSets, Templates and metadata. A rule broken inside a DataSet or Template makes that value `Invalid`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from shared.sparkplug import values
from shared.sparkplug.datatypes import BASIC, DataType
from shared.sparkplug.payload import DataSet, MetaData, Metric, Parameter, Template, Value
from shared.sparkplug.reading import NO_KIND, Context, datatype, judged, scalar
from shared.sparkplug.wire import Refused, fields, too_long, unexpected, varint

MetricReader: TypeAlias = Callable[[Context, int, int, int], Metric]
"""(context, start, stop, depth) -> the metric there."""


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
    kind, raw = NO_KIND, None
    for tag, first, last in fields(context.data, start, stop):
        found = scalar(context, tag, first, last, 1)
        if found[0] == NO_KIND:
            unexpected(tag, 6)
        else:
            kind, raw = found
    return None if kind == NO_KIND else values.read(column, kind, raw)


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
    kind, raw, of_type = NO_KIND, None, None
    for tag, first, last in fields(context.data, start, stop):
        if tag == 0x0A:
            name = context.name(first, last)
        elif tag == 0x10:
            of_type = datatype(first)
        else:
            found = scalar(context, tag, first, last, 3)
            if found[0] == NO_KIND:
                unexpected(tag, 8)
            else:
                kind, raw = found
    if name is None:
        raise Refused("a parameter of the Template has no name")
    if of_type is not None and of_type not in BASIC:
        raise Refused(f"a parameter of the Template is of type {of_type.name}, which is no basic type")
    return Parameter(name=name, type=of_type, value=judged(of_type, kind, raw))


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
