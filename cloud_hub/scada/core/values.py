"""Turns values of Sparkplug metrics into rows of telemetry. Pure.

| Sparkplug | here |
|---|---|
| integers, floats, DateTime (ms) | number; beyond 2^53 rounded |
| Boolean | 0 or 1 |
| String, Text, UUID | text of at most `MAX_TEXT` characters |
| Template instance | its metrics, as `<template>/<metric>` |
| is_null, NaN, infinity, invalid | no value, quality bad |
| DataSet, Bytes, File, arrays, template definitions | not stored |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from shared.sparkplug.datatypes import NUMERIC, TEXTS, DataType
from shared.sparkplug.payload import BD_SEQ, QUALITY, STALE, Invalid, Metric, PropertySet, Template, Untyped

MAX_TEXT = 256
AHEAD_US = 3_600_000_000
"""A time further in the future than this is not believed: the time of receipt stands in for it."""
MAX_DEPTH = 4
"""Templates in templates beyond this are not stored."""
_CONTROL = ("Node Control/", "Device Control/")

Row = tuple[str, str, int, int, int, float | None, str | None, str]
"""A row of telemetry: device, metric, t_us, source, seq, value, text, quality."""
Stored = tuple[float | None, str | None, str]
"""Number, text and quality of a value."""
_NOTHING: Stored = (None, None, "bad")


@dataclass(slots=True)
class Rows:
    """Rows of telemetry, the newest text of each text metric, and what was wrong."""

    rows: list[Row] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    unknown: int = 0
    invalid: int = 0
    wrong_times: int = 0


def is_control(name: str) -> bool:
    """Whether a metric belongs to the protocol and is no measurement."""
    return name == BD_SEQ or name.startswith(_CONTROL)


def stored_as(datatype: DataType | None) -> str:
    """What becomes of values of this type: `number`, `text` or `no`."""
    if datatype in NUMERIC or datatype in {DataType.Boolean, DataType.DateTime}:
        return "number"
    return "text" if datatype in TEXTS else "no"


def flat(metrics: Iterable[Metric], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Metric]]:
    """Names and metrics, with the metrics of template instances in place of the instances. Definitions are left out."""
    for metric in metrics:
        if metric.name is None:
            continue
        name = prefix + metric.name
        value = metric.value
        if type(value) is Template:
            if not value.is_definition and depth < MAX_DEPTH:
                yield from flat(value.metrics, f"{name}/", depth + 1)
        else:
            yield name, metric


def convert(value: object) -> Stored | None:
    """The number or text of a value; None if values of its kind are not stored."""
    kind = type(value)
    if kind is float:
        return (value, None, "good") if math.isfinite(value) else _NOTHING  # type: ignore[arg-type,return-value]
    if kind is int or kind is bool:
        return float(value), None, "good"  # type: ignore[arg-type]
    if kind is str:
        return None, clean_text(value), "good"  # type: ignore[arg-type]
    return _NOTHING if value is None or kind is Invalid else None


def clean_text(text: str) -> str:
    """The text as both databases can store it, cut to `MAX_TEXT` characters."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text[:MAX_TEXT] if text.isascii() else text[:MAX_TEXT].encode("utf-8", "replace").decode()


def quality_of(properties: PropertySet) -> str:
    """Quality from the property `Quality`: 192 (any 0xC0..0xFF) is good, stale and 0x40..0x7F uncertain, others bad."""
    found = properties.get(QUALITY)
    if found is None:
        return "good"
    code = found.value.raw if isinstance(found.value, Untyped) else found.value
    if not isinstance(code, int) or isinstance(code, bool):
        return "good"
    if code == STALE:
        return "uncertain"
    return {0xC0: "good", 0x40: "uncertain"}.get(code & 0xC0, "bad") if code >= 0 else "bad"


def to_rows(
    device: str, metrics: Iterable[Metric], names: Mapping[str, str], source: int, sent_ms: int | None, now_us: int,
    rows: Rows,
) -> None:  # fmt: skip
    """Add the rows of one message. `names` has the metric names of what is stored; `sent_ms` is the message's time."""
    latest_us = now_us + AHEAD_US
    sent_us = now_us if sent_ms is None else sent_ms * 1000
    append = rows.rows.append
    for name, metric in _leaves(metrics):
        stored_name = names.get(name)
        if stored_name is None:
            rows.unknown += not is_control(name)
            continue
        stored = convert(metric.value)
        if stored is None:
            continue
        number, text, quality = stored
        if stored is _NOTHING:
            rows.invalid += metric.value is not None
        elif metric.properties is not None:
            quality = quality_of(metric.properties)
        t_us = sent_us if metric.timestamp is None else metric.timestamp * 1000
        if not 0 < t_us <= latest_us:
            t_us = now_us
            rows.wrong_times += 1
            quality = "uncertain" if quality == "good" else quality
        append((device, stored_name, t_us, source, 0, number, text, quality))
        if text is not None:
            rows.texts[stored_name] = text


def _leaves(metrics: Iterable[Metric]) -> Iterator[tuple[str, Metric]]:
    """As `flat`, without a generator in a generator for the usual metrics."""
    for metric in metrics:
        if type(metric.value) is Template:
            yield from flat((metric,))
        elif metric.name is not None:
            yield metric.name, metric
