"""Reads NCMD and DCMD messages against the definitions of an edge node."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode, typed
from shared.sparkplug.edge_metrics import NODE, EdgeMetrics
from shared.sparkplug.effects import Refused, Write, refused
from shared.sparkplug.payload import REBIRTH, Metric, Untyped
from shared.sparkplug.topics import Topic
from shared.sparkplug.value_checks import misfit


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a command asks: a rebirth, a write, and what of it was refused."""

    rebirth: bool
    write: Write | None
    refused: tuple[Refused, ...]


def read(metrics: EdgeMetrics, topic: Topic, payload: bytes) -> Command:
    """Read a command for the node or device of `topic`. Each metric stands alone. Raises WireError for no payload."""
    message = decode(payload)
    rebirth, good, bad = False, [], []
    for one in message.metrics:
        if topic.device == NODE and one.name == REBIRTH:
            rebirth |= _is_true(one)
            continue
        wanted, problem = _read_one(metrics, topic.device, one)
        if wanted is not None:
            good.append(wanted)
        else:
            bad.append(refused(str(topic), problem))
    write = Write(device=topic.device, metrics=tuple(good), timestamp=message.timestamp) if good else None
    return Command(rebirth=rebirth, write=write, refused=tuple(bad))


def _is_true(metric: Metric) -> bool:
    value = typed(metric, DataType.Boolean).value if isinstance(metric.value, Untyped) else metric.value
    return value is True


def _read_one(metrics: EdgeMetrics, device: str, metric: Metric) -> tuple[Metric | None, str]:
    """(metric as its birth defines it with the value to write, '') or (None, why not)."""
    shown = ascii(metric.name if metric.name is not None else f"alias {metric.alias}")[:100]
    if not metrics.is_alive(device):
        return None, "the device is not alive"
    known = metrics.find(device, metric)
    if known is None or known.datatype is None:
        return None, f"metric {shown} was not in the birth"
    one = typed(metric, known.datatype) if isinstance(metric.value, Untyped) else metric
    if problem := misfit(known.datatype, one.value):
        return None, f"metric {shown}: {problem}"
    return replace(one, name=known.name, alias=None, datatype=known.datatype), ""
