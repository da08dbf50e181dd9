"""An instant query of any Prometheus."""

from __future__ import annotations

from pathlib import Path

from cloud_hub.autoscale.core.sources import PrometheusSource
from cloud_hub.autoscale.signals.base import SignalContext, SignalUnknown, Value
from cloud_hub.prometheus.client import Client, PrometheusError
from cloud_hub.prometheus.connection import PrometheusConnection


def read(source: PrometheusSource, context: SignalContext, fresh_s: float, now_us: int) -> Value:
    """The number that the query returns."""
    try:
        with Client(connection(source)) as client:
            found = client.query_instant(source.query)
    except PrometheusError as error:
        raise SignalUnknown(str(error)) from None
    if len(found) != 1:
        cure = "make it one number, as sum(...) does" if found else "does the metric exist?"
        raise SignalUnknown(f"'{source.query}' returns {len(found)} series: {cure}")
    return Value(found[0].value, found[0].t_us)


def connection(source: PrometheusSource) -> PrometheusConnection:
    """How the server is reached. ConfigError."""
    return PrometheusConnection(
        url=source.url, user=source.user, timeout_s=source.timeout_s,
        token_file=_path(source.token_file), password_file=_path(source.password_file), ca_file=_path(source.ca_file),
    )  # fmt: skip


def _path(name: str) -> Path | None:
    return Path(name) if name else None
