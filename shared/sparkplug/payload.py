"""The Sparkplug B payload (specification 3.0, section 6.4) as immutable Python values.

Times are int milliseconds in UTC. Fields that a message left out are None, flags False. The classes are
`msgspec.Struct`, which are made several times as fast as frozen dataclasses: a birth makes thousands. Change one
with `msgspec.structs.replace(metric, value=1.5)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, Union

import msgspec

from shared.sparkplug.datatypes import DataType

BD_SEQ = "bdSeq"
"""Metric of NBIRTH and NDEATH that ties a death to its birth; Int64, 0 to 255."""
REBIRTH = "Node Control/Rebirth"
"""Boolean metric of every NBIRTH; a host writes true to ask for a new birth."""
QUALITY = "Quality"
"""Property of a metric: Int32, one of the codes below."""
BAD, GOOD, STALE = 0, 192, 500


class Untyped(msgspec.Struct, frozen=True, gc=False):
    """A value of a metric without datatype, as DATA messages send it; `decode.typed` reads it with the birth's type.

    `field` is the protobuf field: `int_value`, `long_value`, `float_value`, `double_value`, `boolean_value`,
    `string_value`, `bytes_value`, `dataset_value`, `template_value` (or `propertyset_value`, `propertysets_value`).
    `raw` is its content; integers are unsigned, as on the wire.
    """

    field: str
    raw: Value


class Invalid(msgspec.Struct, frozen=True, gc=False):
    """In place of a value that breaks the rules: out of range, wrong field, no value at all, too large, malformed.

    Only this value is lost, the rest of the message stands. Report `reason`; never store or show it as a value.
    """

    reason: str


class DataSet(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A table: `types[i]` (a basic type) is the type of column `columns[i]`; every row has one value a column.

    None is a cell without a value.
    """

    columns: tuple[str, ...] = ()
    types: tuple[DataType, ...] = ()
    rows: tuple[tuple[Value, ...], ...] = ()


class Property(msgspec.Struct, frozen=True, gc=False):
    """A value of a PropertySet. `type` None (left out in DATA) comes with an `Untyped` value."""

    type: DataType | None
    value: Value


PropertySet: TypeAlias = Mapping[str, Property]
"""Properties by key, in the order of the message."""


class Parameter(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A parameter of a Template; `value` None is a parameter without a value."""

    name: str
    type: DataType | None = None
    value: Value = None


class Template(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A definition (`is_definition`, no `template_ref`) or an instance (`template_ref` is its definition's name).

    `is_definition` is None if the sender left it out, which the specification forbids; read None as False.
    """

    is_definition: bool | None
    template_ref: str | None = None
    version: str | None = None
    metrics: tuple[Metric, ...] = ()
    parameters: tuple[Parameter, ...] = ()


class MetaData(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a metric's value is: the type and name of a file, the part of a multi-part message."""

    is_multi_part: bool | None = None
    content_type: str | None = None
    size: int | None = None
    seq: int | None = None
    file_name: str | None = None
    file_type: str | None = None
    md5: str | None = None
    description: str | None = None


class Metric(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One metric. `value` None is is_null.

    `datatype` is None, and the value `Untyped`, if the message left it out and no birth's type was given to `decode`.
    """

    name: str | None = None
    alias: int | None = None
    timestamp: int | None = None
    datatype: DataType | None = None
    value: Value = None
    is_historical: bool = False
    is_transient: bool = False
    properties: PropertySet | None = None
    metadata: MetaData | None = None


class Payload(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A whole message of any type except STATE. `seq` is 0 to 255, None in NDEATH, NCMD and DCMD."""

    timestamp: int | None = None
    metrics: tuple[Metric, ...] = ()
    seq: int | None = None
    uuid: str | None = None
    body: bytes | None = None


Value: TypeAlias = Union[  # noqa: UP007
    bool, int, float, str, bytes, tuple["Value", ...], DataSet, Template, PropertySet, Untyped, Invalid, None
]
"""A value of a metric, property, parameter or cell; see `datatypes` for which type has which."""
