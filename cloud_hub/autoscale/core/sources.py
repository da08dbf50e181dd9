"""Where a signal comes from: the key `source` of a signal in the targets file. Pure.

Each source says what it reads, in which unit, and of what time its reading is. Where `unit` is '' here, the unit is the
one that the signal's rule states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

Aggregate = Literal["mean", "sum", "max", "min", "p95", "count"]
SECONDS_MOST = 60.0


class _Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """A source."""

    def problem(self) -> str:
        """What does not fit together, or ''."""
        return ""


class TelemetrySource(_Source, frozen=True, kw_only=True, tag="telemetry"):
    """The newest sample of `metric`: of one `device`, or an aggregate over the devices that `where` finds.

    Time: that of the sample; of an aggregate, the oldest sample in it. Devices whose sample is not fresh are left out;
    if fewer than the share `coverage` of the devices is fresh, the reading is unknown.
    """

    metric: str
    device: str = ""
    where: str = ""
    aggregate: Aggregate = "mean"
    coverage: float = 0.8

    def problem(self) -> str:
        if bool(self.device) == bool(self.where):
            return "give either device or where (a query over the fleet)"
        return "" if 0 < self.coverage <= 1 else "coverage must lie in 0..1"


class AlarmSource(_Source, frozen=True, kw_only=True, tag="alarms"):
    """The number of raised alarms that nobody suppressed, of the devices that `where` finds. Time: now."""

    where: str = "*"
    metric: str = ""
    priority: str = ""


class IncidentSource(_Source, frozen=True, kw_only=True, tag="incidents"):
    """The number of incidents that are not resolved, of the devices that `where` finds. Time: now."""

    where: str = "*"
    subject: str = ""


class EscalationSource(_Source, frozen=True, kw_only=True, tag="escalations"):
    """Frames that devices escalated to experts: `rate` (1/s, over `window_s`) or `waiting` (frames). Time: now."""

    of: Literal["rate", "waiting"] = "rate"
    model: str = ""
    window_s: float = 60.0

    def problem(self) -> str:
        return "" if 1 <= self.window_s <= 3600 else "window_s must lie in 1..3600"


class InferenceSource(_Source, frozen=True, kw_only=True, tag="inference"):
    """Requests at the inference gateway of this hub in `pool`: `waiting`, `running`, or both as `load`. Time: now."""

    pool: str
    of: Literal["waiting", "running", "load"] = "load"


class EngineSource(_Source, frozen=True, kw_only=True, tag="engine"):
    """A metric that engines serve in Prometheus' text format, such as `vllm:num_requests_waiting`.

    `addresses` are base URLs; `/metrics` of each is read. Samples with these `labels` are added up in each engine, and
    `aggregate` is over the engines. Time: that of the answer. An engine that does not answer makes the reading unknown
    if fewer than `coverage` of them did.
    """

    addresses: tuple[str, ...]
    metric: str
    labels: Mapping[str, str] = {}
    aggregate: Aggregate = "sum"
    coverage: float = 1.0
    token_file: str = ""
    ca_file: str = ""
    timeout_s: float = 5.0

    def problem(self) -> str:
        if not self.addresses:
            return "addresses is empty: name the base URL of at least one engine"
        if not 0 < self.coverage <= 1:
            return "coverage must lie in 0..1"
        return next(filter(None, (_url("addresses", url) for url in self.addresses)), _timeout(self.timeout_s))


class PrometheusSource(_Source, frozen=True, kw_only=True, tag="prometheus"):
    """An instant query that returns one number. Time: the server's evaluation time.

    Prometheus answers with samples that are up to 5 minutes old (its lookback). To see staleness, query what vanishes:
    `rate(...)` over a short range, or add `and on() (time() - timestamp(up) < 60)`.
    """

    url: str
    query: str
    token_file: str = ""
    user: str = ""
    password_file: str = ""
    ca_file: str = ""
    timeout_s: float = 5.0

    def problem(self) -> str:
        return _url("url", self.url) or _timeout(self.timeout_s)


def _url(key: str, url: str) -> str:
    """A login in a URL would be shown with every error of it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        good = False
    return "" if good else f"{key} must be http(s)://host:port, without a login; secrets are read from files"


def _timeout(timeout_s: float) -> str:
    return "" if 0 < timeout_s <= SECONDS_MOST else f"timeout_s must lie in 0..{SECONDS_MOST:g}"


Source: TypeAlias = (
    TelemetrySource
    | AlarmSource
    | IncidentSource
    | EscalationSource
    | InferenceSource
    | EngineSource
    | PrometheusSource
)
