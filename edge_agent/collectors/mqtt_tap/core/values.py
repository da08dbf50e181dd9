"""From what a message says to the value of a sample."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Literal

Type = Literal["number", "bool", "string"]
TimeUnit = Literal["s", "ms", "us", "iso"]
MAX_TEXT = 4096
WORDS = {"true": 1.0, "false": 0.0, "on": 1.0, "off": 0.0, "1": 1.0, "0": 0.0}
_UNITS = {"s": 1_000_000, "ms": 1000, "us": 1}


def to_sample(value: object, kind: Type, scale: float, offset: float) -> float | str:
    """The value of a sample; raises ValueError with the reason why there is none. Text may hold a number: `"4.5"`."""
    if kind == "string":
        if not isinstance(value, str):
            raise ValueError(f"is no text but {_kind(value)}")
        return value[:MAX_TEXT]
    if kind == "bool":
        return _bool(value)
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"is no number but {_kind(value)}")
    try:
        found = float(value) * scale + offset
    except OverflowError as error:
        raise ValueError("is a number that is too large") from error
    if not math.isfinite(found):
        raise ValueError("is no number (NaN or infinite)")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"'{text[:40]}' is no number") from error


def _bool(value: object) -> float:
    word = str(value).strip().lower()
    if isinstance(value, (bool, int, float, str)) and word in WORDS:
        return WORDS[word]
    if value in (0.0, 1.0):
        return float(value == 1.0)
    raise ValueError(f"'{str(value)[:40]}' is no bool: true, false, on, off, 1 and 0 are")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", type(None): "null", bool: "a bool", str: "text"}
    return names.get(type(value), "a number")


def to_time_us(value: object, unit: TimeUnit) -> int:
    """Microseconds of a time in a message; raises ValueError. A time without a zone is in UTC."""
    try:
        if unit == "iso":
            if not isinstance(value, str):
                raise ValueError
            moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
            return round(moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp() * 1e6)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        return round(float(value) * _UNITS[unit])
    except (ValueError, OverflowError) as error:
        raise ValueError(f"'{str(value)[:40]}' is no time in {unit}") from error
