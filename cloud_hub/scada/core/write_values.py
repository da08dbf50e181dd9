"""Converts a value that a person asks for into a Sparkplug metric. Pure."""

from __future__ import annotations

from shared.plant.write_rules import WriteValue
from shared.sparkplug.datatypes import FLOATS, RANGES, TEXTS, DataType, check
from shared.sparkplug.payload import Metric


def to_metric(name: str, datatype: str, value: WriteValue) -> Metric:
    """The metric of a command; raises ValueError if the value does not fit the datatype."""
    kind = DataType[datatype] if datatype in DataType.__members__ else DataType.Unknown
    converted = _converted(kind, value)
    check(kind, converted)
    return Metric(name=name, datatype=kind, value=converted)


def _converted(kind: DataType, value: WriteValue) -> WriteValue:
    if kind is DataType.Boolean:
        if isinstance(value, bool) or value in {0, 1}:
            return bool(value)
        raise ValueError("Boolean takes true or false")
    if kind in RANGES:
        if isinstance(value, bool | str) or value != int(value):
            raise ValueError(f"{kind.name} takes whole numbers")
        return int(value)
    if kind in FLOATS and not isinstance(value, bool | str):
        return float(value)
    if kind in TEXTS and isinstance(value, str):
        return value
    raise ValueError(f"a metric of type {kind.name} cannot be set to this value")


def as_write_value(value: object) -> WriteValue | None:
    """The value of a metric as rules compare it; None if there is none, or it is no number, boolean or text."""
    return value if isinstance(value, bool | int | float | str) else None
