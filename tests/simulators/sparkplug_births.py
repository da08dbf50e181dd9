"""Metrics and records of Sparkplug nodes, without bytes."""

from __future__ import annotations

from typing import Any

from cloud_hub.scada.core.records import Birth, Data, Death, Key
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.payload import Metric, Property

NODE: Key = ("Line 1", "Press 3", "")
DRIVE: Key = ("Line 1", "Press 3", "Drive")
T_MS = 1_700_000_000_000
TYPES = {float: DataType.Double, int: DataType.Int64, bool: DataType.Boolean, str: DataType.String}


def metric(name: str, value: Any, t_ms: int | None = T_MS, datatype: DataType | None = None, **more: Any) -> Metric:
    kind = datatype or TYPES.get(type(value), DataType.Double)
    return Metric(name=name, timestamp=t_ms, datatype=kind, value=value, **more)


def metrics(t_ms: int | None = T_MS, /, **values: Any) -> list[Metric]:
    return [metric(name, value, t_ms) for name, value in values.items()]


def properties(**values: Any) -> dict[str, Property]:
    return {key: Property(TYPES[type(value)], value) for key, value in values.items()}


def birth(key: Key = NODE, *found: Metric, bd_seq: int = 0, **values: Any) -> Birth:
    return Birth(key=key, metrics=[*found, *metrics(**values)], sent_ms=T_MS, bd_seq=bd_seq, server="s1")


def data(key: Key = NODE, *found: Metric, t_ms: int = T_MS + 1000, **values: Any) -> Data:
    return Data(key=key, metrics=[*found, *metrics(t_ms, **values)], sent_ms=t_ms)


def death(key: Key = NODE) -> Death:
    return Death(key=key)
