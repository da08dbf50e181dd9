"""Reads what a birth defines: the metrics of a node or device, with unit and range from their properties. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloud_hub.scada.core import naming
from cloud_hub.scada.core.values import clean_text, flat, is_control, stored_as
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.payload import Metric, PropertySet

OWN_DEVICE = "Properties/Tidegate Device"
"""Metric with which an agent of Tidegate says which device it is."""
MAX_UNIT = 32


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric as its birth defines it."""

    name: str
    datatype: str
    unit: str
    low: float | None
    high: float | None
    stored: str


def read(metrics: Iterable[Metric]) -> dict[str, Definition]:
    """The definitions of a birth by Sparkplug name, without metrics of the protocol itself and names with NUL."""
    found: dict[str, Definition] = {}
    for name, metric in flat(metrics):
        if not is_control(name) and "\0" not in name:  # no database column holds NUL
            found[name] = _definition(name, metric)
    return found


def _definition(name: str, metric: Metric) -> Definition:
    datatype = metric.datatype or DataType.Unknown
    properties = metric.properties
    if properties is None:
        return Definition(name, datatype.name, "1", None, None, stored_as(datatype))
    low, high = _number(properties, "engLow"), _number(properties, "engHigh")
    return Definition(name, datatype.name, _unit(properties), low, high, stored_as(datatype))


def digest(definitions: Mapping[str, Definition]) -> str:
    """A hash of definitions, whatever their order: equal births need no registration."""
    parts = [
        f"{one.name}\x00{one.datatype}\x00{one.unit}\x00{one.low}\x00{one.high}"
        for _, one in sorted(definitions.items())
    ]
    return naming.digest(*parts)


def own_device(metrics: Iterable[Metric]) -> str:
    """The device id that a node of this hub's own agents gives, or ''."""
    for metric in metrics:
        if metric.name == OWN_DEVICE and isinstance(metric.value, str):
            return metric.value
    return ""


def _unit(properties: PropertySet) -> str:
    found = properties.get("engUnit")
    text = found.value if found is not None else None
    return (clean_text(text)[:MAX_UNIT].strip() or "1") if isinstance(text, str) and text.isprintable() else "1"


def _number(properties: PropertySet, key: str) -> float | None:
    found = properties.get(key)
    value = found.value if found is not None else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
