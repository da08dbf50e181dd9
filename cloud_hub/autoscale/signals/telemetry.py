"""Telemetry: the newest sample of one device, or an aggregate over the devices that a query finds."""

from __future__ import annotations

from sqlmodel import Session

from cloud_hub import query
from cloud_hub.autoscale.core.sources import TelemetrySource
from cloud_hub.autoscale.signals.base import SignalContext, SignalUnknown, Value, aggregate, covered
from cloud_hub.telemetry.rollups.last_values import LastValue, device_last_values
from shared.durations import SECOND_US

MOST_DEVICES = 5_000
"""Devices of one aggregate: each costs a lookup at every decision."""


def read(source: TelemetrySource, context: SignalContext, fresh_s: float, now_us: int) -> Value:
    """The value now."""
    with context.db.read() as session:
        devices = devices_of(session, source)
        found = [value for device in devices for value in device_last_values(session, device, [source.metric], now_us)]
    if source.device:
        return _single(source, found)
    fresh = [value for value in found if _number(value) is not None and _fresh(value, fresh_s, now_us)]
    covered(len(fresh), len(devices), source.coverage, f"devices that '{source.where}' finds")
    numbers = [number for value in fresh if (number := _number(value)) is not None]
    return Value(aggregate(source.aggregate, numbers), min(value.t_us for value in fresh))


def devices_of(session: Session, source: TelemetrySource) -> list[str]:
    """The devices of a source; SignalUnknown if they are too many."""
    if source.device:
        return [source.device]
    found = query.devices(session, source.where, limit=MOST_DEVICES + 1)
    if len(found) > MOST_DEVICES:
        raise SignalUnknown(f"'{source.where}' finds more than {MOST_DEVICES} devices: narrow it")
    return found


def _single(source: TelemetrySource, found: list[LastValue]) -> Value:
    if not found:
        raise SignalUnknown(f"{source.device} has no samples of {source.metric}")
    number = _number(found[0])
    if number is None:
        raise SignalUnknown(f"the newest sample of {source.metric} of {source.device} is no good number")
    return Value(number, found[0].t_us)


def _number(value: LastValue) -> float | None:
    good = value.quality != "bad" and isinstance(value.value, (int, float))
    return float(value.value) if good and isinstance(value.value, (int, float)) else None


def _fresh(value: LastValue, fresh_s: float, now_us: int) -> bool:
    return abs(now_us - value.t_us) <= fresh_s * SECOND_US
