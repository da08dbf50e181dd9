"""The stored past of a signal: one mean a minute, from rollups, rows, or Prometheus.

Signals without a stored past (queues of gateways and engines, alarms) have none here; scrape them into a Prometheus to
have one. Minutes without a value are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.autoscale.core.sources import EscalationSource, PrometheusSource, Source, TelemetrySource
from cloud_hub.autoscale.signals.base import SignalContext, SignalUnknown
from cloud_hub.autoscale.signals.escalations import arrivals
from cloud_hub.autoscale.signals.prometheus import connection
from cloud_hub.autoscale.signals.telemetry import devices_of
from cloud_hub.prometheus.client import Client, PrometheusError
from cloud_hub.telemetry.rollups import matrices
from shared.durations import MINUTE_US

Floats = npt.NDArray[np.float64]

REDUCE: Mapping[str, Callable[..., Any]] = {
    "mean": np.nanmean, "sum": np.nansum, "max": np.nanmax, "min": np.nanmin,
}  # fmt: skip
MOST_DEVICES = 200
"""Devices of an aggregate whose minutes are read for a forecast."""


def minutes(source: Source, context: SignalContext, start_us: int, end_us: int) -> Floats:
    """float64 [n], one value a minute from start_us (a whole minute) on. SignalUnknown, with the reason."""
    if isinstance(source, TelemetrySource):
        return _telemetry(source, context, start_us, end_us)
    if isinstance(source, EscalationSource) and source.of == "rate":
        with context.db.read() as session:
            times = arrivals(session, source, start_us, end_us)
        edges = np.arange(start_us, end_us + 1, MINUTE_US)
        return np.histogram(times, edges)[0] / 60.0
    if isinstance(source, PrometheusSource):
        return _prometheus(source, start_us, end_us)
    raise SignalUnknown("this source has no stored past: scrape it into a Prometheus, and use that as the source")


def _telemetry(source: TelemetrySource, context: SignalContext, start_us: int, end_us: int) -> Floats:
    with context.db.read() as session:
        devices = devices_of(session, source)
        if len(devices) > MOST_DEVICES:
            raise SignalUnknown(f"{len(devices)} devices are more than {MOST_DEVICES}: too many for a forecast")
        series = [(device, source.metric) for device in devices]
        pages = [page.mean for page in matrices.columns(session, series, start_us, end_us, 60)]
    if not pages:
        raise SignalUnknown("no device is found")
    return _combined(np.concatenate(pages), source)


def _combined(means: Floats, source: TelemetrySource) -> Floats:
    """The aggregate of float64 [devices, minutes] at each minute, NaN where too few devices have a value."""
    known = np.isfinite(means)
    enough = known.sum(axis=0) >= max(1.0, (1.0 if source.device else source.coverage) * len(means))
    found = np.full(means.shape[1], np.nan)
    if not enough.any():
        return found
    some = means[:, enough]
    if source.device:
        found[enough] = some[0]
    elif source.aggregate == "count":
        found[enough] = known[:, enough].sum(axis=0)
    elif source.aggregate == "p95":
        found[enough] = np.nanquantile(some, 0.95, axis=0)
    else:
        found[enough] = REDUCE[source.aggregate](some, axis=0)
    return found


def _prometheus(source: PrometheusSource, start_us: int, end_us: int) -> Floats:
    try:
        with Client(connection(source)) as client:
            found = client.query_range(source.query, start_us, end_us - MINUTE_US, 60)
    except PrometheusError as error:
        raise SignalUnknown(str(error)) from None
    values = np.full((end_us - start_us) // MINUTE_US, np.nan)
    if len(found) != 1:
        raise SignalUnknown(f"'{source.query}' returns {len(found)} series over the past")
    at = (found[0].t_us - start_us) // MINUTE_US
    inside = (at >= 0) & (at < values.size)
    values[at[inside]] = found[0].values[inside]
    return values
