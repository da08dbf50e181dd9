"""From values of OPC UA to samples, and from what is to be written to a built-in type (OPC UA Part 6, 5.1.2)."""

from __future__ import annotations

import math
import sys
from datetime import datetime, timezone
from typing import Literal

from edge_agent.collectors.plant.core.steps import whole

Type = Literal["number", "bool", "string"]
Value = float | str | bool
MAX_TEXT = 4096
_BITS = {"SByte": 8, "Byte": 8, "Int16": 16, "UInt16": 16, "Int32": 32, "UInt32": 32, "Int64": 64, "UInt64": 64}
_SIGNED = frozenset({"SByte", "Int16", "Int32", "Int64"})
FLOAT_MAX = 3.4028234663852886e38
_LARGEST = {"Float": FLOAT_MAX, "Double": sys.float_info.max}


def to_sample(value: object, kind: Type, index: int | None, scale: float, offset: float) -> float | str:
    """The value of a sample; raises ValueError with the reason why there is none. A float may be NaN or infinite."""
    if isinstance(value, list):
        value = _element(value, index)
    elif index is not None:
        raise ValueError("its value is no array, and the tag says `index`")
    if value is None:
        raise ValueError("its value is empty")
    if kind == "string":
        return _text(value)
    if isinstance(value, datetime):
        value = value.replace(tzinfo=value.tzinfo or timezone.utc).timestamp()
    if isinstance(value, str):
        raise ValueError('its value is text: set type = "string"')
    if not isinstance(value, (bool, int, float)):
        raise ValueError(f"its value is a {type(value).__name__}, which no sample can hold")
    if kind == "bool":
        return float(bool(value))
    return float(value) * scale + offset


def _element(values: list[object], index: int | None) -> object:
    if index is None:
        raise ValueError(f"its value is an array of {len(values)}: set `index`")
    if index >= len(values):
        raise ValueError(f"its value is an array of {len(values)}, and index is {index}")
    return values[index]


def _text(value: object) -> str:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, (bool, int, float)):
        raise ValueError('its value is a number: leave type = "string" away')
    raise ValueError(f"its value is a {type(value).__name__}, which no sample can hold")


def to_write(value: Value, variant: str, kind: Type, scale: float, offset: float) -> bool | int | float | str:
    """What to write to a variable of the built-in type `variant`; raises ValueError with a reason for a person."""
    if variant == "String":
        if not isinstance(value, str):
            raise ValueError(f"{value} is no text, and the variable is a String")
        return value
    if isinstance(value, str):
        raise ValueError(f"'{value[:40]}' is text, and the variable is a {variant}")
    if variant == "Boolean" or kind == "bool":
        if value not in (0, 1):
            raise ValueError(f"{value!r} is no bool: use true or false")
        return bool(value) if variant == "Boolean" else _number(float(value), variant)
    if not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return _number((float(value) - offset) / scale, variant)


def _number(raw: float, variant: str) -> int | float:
    if variant not in _BITS and variant not in _LARGEST:
        raise ValueError(f"variables of type {variant or 'unknown'} cannot be written")
    if not abs(raw) <= _LARGEST.get(variant, FLOAT_MAX):  # also what became infinite by the scale
        raise ValueError(f"{raw:g} does not fit into {variant}")
    if variant in _LARGEST:
        return raw
    bits, number = _BITS[variant], whole(raw, variant)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if variant in _SIGNED else (0, (1 << bits) - 1)
    if not low <= number <= high:
        raise ValueError(f"{raw:g} does not fit into {variant}")
    return number


def same(wanted: object, read: object) -> bool:
    """Whether the value read back is the one that was written; a Float keeps seven digits."""
    if isinstance(wanted, float) and isinstance(read, (int, float)):
        return math.isclose(wanted, read, rel_tol=1e-6, abs_tol=1e-12)
    return wanted == read
