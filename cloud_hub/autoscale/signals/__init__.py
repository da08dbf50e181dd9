"""Reads signals: a module for each source, and `read_all`, in which one bad signal stops no other.

A reading that cannot be had is unknown (its value is None, with the reason), and the policy holds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloud_hub.autoscale.core.signals import Reading
from cloud_hub.autoscale.core.sources import (
    AlarmSource,
    EngineSource,
    EscalationSource,
    IncidentSource,
    InferenceSource,
    PrometheusSource,
    Source,
    TelemetrySource,
)
from cloud_hub.autoscale.core.targets import SignalEntry
from cloud_hub.autoscale.signals import alarms, engines, escalations, inference, prometheus, telemetry
from cloud_hub.autoscale.signals.base import SignalContext, SignalUnknown, Value
from cloud_hub.errors import HubError
from cloud_hub.runtime.items import storable, text_of
from shared.errors import ConfigError, NotReady

__all__ = ["Readings", "SignalContext", "SignalUnknown", "Value", "read_all", "read_source"]

log = logging.getLogger(__name__)

READERS: Mapping[type[Any], Callable[[Any, SignalContext, float, int], Value]] = {
    TelemetrySource: telemetry.read,
    AlarmSource: alarms.read_alarms,
    IncidentSource: alarms.read_incidents,
    EscalationSource: escalations.read,
    InferenceSource: inference.read,
    EngineSource: engines.read,
    PrometheusSource: prometheus.read,
}


@dataclass(frozen=True, slots=True)
class Readings:
    """The readings of a target's signals, and by signal why one has no value."""

    readings: tuple[Reading, ...]
    errors: dict[str, str] = field(default_factory=dict)


def read_all(signals: Sequence[SignalEntry], context: SignalContext, clock: Callable[[], int]) -> Readings:
    """Read every signal. Raises nothing: what cannot be read is unknown."""
    errors: dict[str, str] = {}
    readings = []
    for signal in signals:
        value, reason = read_source(signal.source, context, signal.fresh_s, clock())
        if value is None:
            errors[signal.name] = reason
            readings.append(Reading(signal=signal.name, value=None, t_us=clock(), unit=signal.unit))
        else:
            unit = value.unit or signal.unit
            readings.append(Reading(signal=signal.name, value=value.value, t_us=value.t_us, unit=unit))
    return Readings(tuple(readings), errors)


def read_source(source: Source, context: SignalContext, fresh_s: float, now_us: int) -> tuple[Value | None, str]:
    """(value, '') of a source, or (None, why it is unknown)."""
    try:
        value = READERS[type(source)](source, context, fresh_s, now_us)
    except (SignalUnknown, ConfigError, HubError, NotReady) as error:
        return None, storable(str(error))
    except Exception as error:  # noqa: BLE001 - a source may fail in any way; its target is held, and others go on
        reason = text_of(error)
        log.warning("autoscale.signal_failed", extra={"fields": {"source": type(source).__name__, "error": reason}})
        return None, reason
    if not math.isfinite(value.value):  # NaN is no JSON, and would not be replayed as what it was
        return None, f"{value.value} is no finite number"
    return value, ""
