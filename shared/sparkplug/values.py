"""From a protobuf field to the value of a datatype. Tolerates what encoders in the field do differently:

- negative small integers as 8 or 16 bit two's complement (Int8 -5 as 251), or sign-extended to 32 or 64 bit;
- integers of up to 32 bit in `long_value`, 64 bit ones in `int_value` where that is unambiguous;
- a Float in `double_value` and the reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from shared.sparkplug import arrays
from shared.sparkplug.datatypes import BLOBS, ELEMENTS, FLOATS, RANGES, SIGNED, TEXTS, UNSIGNED, DataType
from shared.sparkplug.payload import Value
from shared.sparkplug.wire import Refused

INT, LONG, FLOAT, DOUBLE, BOOLEAN, STRING, BYTES, DATASET, TEMPLATE, PROPERTYSET, PROPERTYSETS = range(11)
"""Kinds of value fields; in Metric, Parameter, PropertyValue and DataSetValue they have different numbers."""
FIELDS = (
    "int_value", "long_value", "float_value", "double_value", "boolean_value", "string_value", "bytes_value",
    "dataset_value", "template_value", "propertyset_value", "propertysets_value",
)  # fmt: skip
KINDS = {field: kind for kind, field in enumerate(FIELDS)}

Reader: TypeAlias = Callable[[int, Value], Value]


def read(datatype: DataType, kind: int, raw: Value) -> Value:
    """The value of `raw`, found in a field of this kind. Raises Refused if it is no value of the datatype."""
    return _READERS[datatype](kind, raw)


def _signed(datatype: DataType, bits: int) -> Reader:
    low, high = RANGES[datatype]
    ambiguous = 1 << 31 if bits == 64 else 1 << 64
    spans = tuple((one, (1 << one) + low, 1 << one) for one in sorted({bits, 32, 64}) if one >= bits)

    def read_signed(kind: int, raw: Value) -> Value:
        if kind > LONG or not isinstance(raw, int):
            raise _wrong_field(datatype, kind)
        if raw <= high and (kind == LONG or raw < ambiguous):
            return raw
        for _, first, after in spans:
            if first <= raw < after:
                return raw - after
        raise Refused(f"{datatype.name} is {low} to {high}, not the bits {raw:#x}")

    return read_signed


def _unsigned(datatype: DataType, bits: int) -> Reader:
    high = (1 << bits) - 1

    def read_unsigned(kind: int, raw: Value) -> Value:
        if kind > LONG or not isinstance(raw, int):
            raise _wrong_field(datatype, kind)
        if raw > high:
            raise Refused(f"{datatype.name} is 0 to {high}, not {raw}")
        return raw

    return read_unsigned


def _as_sent(datatype: DataType, *kinds: int) -> Reader:
    def read_as_sent(kind: int, raw: Value) -> Value:
        if kind not in kinds:
            raise _wrong_field(datatype, kind)
        return raw

    return read_as_sent


def _array(datatype: DataType) -> Reader:
    def read_array(kind: int, raw: Value) -> Value:
        if kind != BYTES or not isinstance(raw, bytes):
            raise _wrong_field(datatype, kind)
        return arrays.unpack(datatype, raw)

    return read_array


def _unknown(kind: int, raw: Value) -> Value:
    raise Refused("datatype Unknown (0) has no values")


def _wrong_field(datatype: DataType, kind: int) -> Refused:
    return Refused(f"{datatype.name} is not sent in {FIELDS[kind]}")


_READERS: dict[DataType, Reader] = {
    DataType.Unknown: _unknown,
    **{one: _signed(one, bits) for one, bits in SIGNED.items()},
    **{one: _unsigned(one, bits) for one, bits in UNSIGNED.items()},
    **{one: _as_sent(one, FLOAT, DOUBLE) for one in FLOATS},
    **{one: _as_sent(one, STRING) for one in TEXTS},
    **{one: _as_sent(one, BYTES) for one in BLOBS},
    **{one: _array(one) for one in ELEMENTS},
    DataType.Boolean: _as_sent(DataType.Boolean, BOOLEAN),
    DataType.DataSet: _as_sent(DataType.DataSet, DATASET),
    DataType.Template: _as_sent(DataType.Template, TEMPLATE),
    DataType.PropertySet: _as_sent(DataType.PropertySet, PROPERTYSET),
    DataType.PropertySetList: _as_sent(DataType.PropertySetList, PROPERTYSETS),
}
