"""Client of the Prometheus HTTP API: range and instant queries, alerting rules, types of metrics.

Reference: https://prometheus.io/docs/prometheus/latest/querying/api/. A server returns at most 11,000 points per
series, so a long range is split into several queries, each starting one step after the end of the previous one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

from cloud_hub.prometheus.connection import PrometheusConnection
from cloud_hub.prometheus.core.series import Rule, Series
from shared.errors import TidegateError

MAX_POINTS = 10_000
"""Maximum points of one series in one response; the server's own limit is 11,000."""
MAX_BYTES = 1 << 28
"""Maximum size of one response."""


class PrometheusError(TidegateError):
    """A request failed. `absent` is set if the server did not respond; the text suggests what to do."""

    def __init__(self, text: str, *, absent: bool = False) -> None:
        super().__init__(text)
        self.absent = absent


@dataclass(frozen=True, slots=True)
class Instant:
    """A value of a series at `t_us` (UTC microseconds)."""

    labels: dict[str, str]
    t_us: int
    value: float


class Client:
    """Client of one server; a context manager. Raises PrometheusError. `warn` receives the server's warnings."""

    def __init__(self, access: PrometheusConnection, warn: Callable[[str], None] = lambda text: None) -> None:
        self.url = access.url.rstrip("/")
        self._warn, self._http, self._timeout_s = warn, access.open(), access.timeout_s

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def query_range(self, query: str, start_us: int, end_us: int, step_s: int) -> list[Series]:
        """Every series of `query` at start_us, start_us + step_s, ... up to end_us, both ends in UTC microseconds."""
        parts: dict[tuple[tuple[str, str], ...], list[tuple[Any, Any]]] = {}
        for start, end in split_range(start_us // 1_000_000, end_us // 1_000_000, step_s):
            parameters = {
                "query": query,
                "start": start,
                "end": end,
                "step": step_s,
                "timeout": f"{self._timeout_s:g}s",
            }
            data = self._request("query_range", parameters)
            if data.get("resultType") != "matrix":
                raise PrometheusError(f"'{query}' returns no range of series but a {data.get('resultType')}")
            for series in data["result"]:
                if series.get("values"):  # a native histogram has none
                    parts.setdefault(tuple(sorted(series["metric"].items())), []).append(_columns(series["values"]))
        return [
            Series(
                labels=dict(key), t_us=np.concatenate([t for t, _ in some]), values=np.concatenate([v for _, v in some])
            )
            for key, some in sorted(parts.items())
        ]

    def query_instant(self, query: str) -> list[Instant]:
        """The value of each series of `query` now, by the server's clock; a scalar is one without labels."""
        data = self._request("query", {"query": query, "timeout": f"{self._timeout_s:g}s"})
        kind, result = data.get("resultType"), data.get("result")
        if kind == "scalar":
            return [_instant({}, result, query)]
        if kind != "vector":
            raise PrometheusError(f"'{query}' returns no instant values but a {kind}")
        return [_instant(row.get("metric", {}), row["value"], query) for row in result if "value" in row]

    def rules(self) -> list[Rule]:
        """The alerting rules of the server."""
        groups = self._request("rules", {"type": "alert"})["groups"]
        return [
            Rule(
                name=rule["name"],
                query=rule["query"],
                for_s=float(rule.get("duration", 0)),
                interval_s=float(group.get("interval", 0)),
                labels=rule.get("labels") or {},
            )
            for group in groups
            for rule in group["rules"]
            if rule.get("type") == "alerting"
        ]

    def interval_s(self) -> float:
        """The longest scrape interval of all targets; 0 if it is unknown."""
        try:
            targets = self._request("targets", {"state": "active"})["activeTargets"]
        except PrometheusError as error:
            if error.absent:
                raise
            return 0.0
        return max((_seconds(str(target.get("scrapeInterval", ""))) for target in targets), default=0.0)

    def kind(self, metric: str) -> str:
        """counter, gauge, histogram, summary, or '' if the server does not know (it forgets removed targets)."""
        metadata = self._request("metadata", {"metric": metric, "limit_per_metric": 1}).get(metric) or [{}]
        return str(metadata[0].get("type", ""))

    def _request(self, endpoint: str, parameters: Mapping[str, Any]) -> Any:
        """Send a request: POST for queries, which may exceed the length of a URL, else GET."""
        path = f"{self.url}/api/v1/{endpoint}"
        sent = {"data": parameters} if endpoint.startswith("query") else {"params": parameters}
        try:
            with self._http.stream("POST" if "data" in sent else "GET", path, **sent) as answer:  # type: ignore[arg-type]
                content = self._read_body(answer)
        except httpx.TimeoutException as error:
            cure = "Request less (--days, --step, a narrower --query) or wait longer (--timeout)"
            raise PrometheusError(
                f"{self.url} did not answer within {self._timeout_s:g} s. {cure}", absent=True
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            cure = "Check that it is running and that the address is correct"
            raise PrometheusError(f"no Prometheus at {self.url} ({error}). {cure}", absent=True) from error
        return self._data_of(answer.status_code, content)

    def _read_body(self, answer: httpx.Response) -> bytes:
        content = bytearray()
        for part in answer.iter_bytes():
            content += part
            if len(content) > MAX_BYTES:
                raise PrometheusError(f"the response is larger than {MAX_BYTES >> 20} MiB. {REQUEST_LESS}")
        return bytes(content)

    def _data_of(self, status: int, content: bytes) -> Any:
        if status in (401, 403):
            raise PrometheusError(f"{self.url} denied access (HTTP {status}). {CREDENTIALS}")
        try:
            answer = msgspec.json.decode(content)
            good = answer["status"] == "success"
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
            cure = "Give the base URL below which /api/v1 is, with its path prefix if it has one"
            raise PrometheusError(f"HTTP {status} of {self.url} is not a Prometheus response. {cure}") from None
        if not good:
            kind, text = answer.get("errorType", ""), str(answer.get("error", ""))[:500]
            raise PrometheusError(
                f"{self.url} rejected the request ({kind or status}): {text}. {CURES.get(kind, '')}".rstrip(". ") + "."
            )
        for text in answer.get("warnings") or ():
            self._warn(str(text)[:500])
        return answer["data"]


CREDENTIALS = "Give --token-file, or --user with --password-file"
REQUEST_LESS = "Request less: --days, --step or a narrower --query"
CURES = {
    "bad_data": "Try the query in the server's web UI first",
    "execution": REQUEST_LESS,
    "timeout": REQUEST_LESS,
    "canceled": REQUEST_LESS,
    "unavailable": "The server is starting or overloaded: try again later",
}


def split_range(start: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """Split start..end (seconds) into ranges of at most MAX_POINTS steps that together contain each step once."""
    if step < 1 or end < start:
        raise ValueError("a range needs an end at or after its start, and a step of at least 1 second")
    while start <= end:
        last = min(start + (MAX_POINTS - 1) * step, start + (end - start) // step * step)
        yield start, last
        start = last + step


def _instant(labels: dict[str, str], pair: Any, query: str) -> Instant:
    try:
        return Instant(labels, round(float(pair[0]) * 1e6), float(pair[1]))
    except (TypeError, ValueError, IndexError, KeyError):
        raise PrometheusError(f"'{query}' returns a value that is none: {str(pair)[:100]}") from None


def _columns(values: list[list[Any]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Times in seconds and values as text ('NaN', '+Inf', '1e3') as columns."""
    t_us = np.array([round(pair[0] * 1000) * 1000 for pair in values], dtype=np.int64)
    return t_us, np.array([pair[1] for pair in values], dtype=np.float64)


def _seconds(text: str) -> float:
    """The seconds of a duration in Go's format, such as 1m30s."""
    units = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text))
