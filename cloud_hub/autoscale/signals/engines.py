"""Metrics that inference engines serve themselves, such as vLLM's `vllm:num_requests_waiting`.

The text format is read by prometheus_client's own parser. The name may be given with `:`, or as it is exposed.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from cloud_hub.autoscale.core.sources import EngineSource
from cloud_hub.autoscale.signals.base import SignalContext, SignalUnknown, Value, aggregate, covered
from cloud_hub.runtime.http_request import send_request
from cloud_hub.security import secret_files
from shared.errors import ConfigError

MAX_BYTES = 16 << 20
LOCAL = ("127.0.0.1", "::1", "localhost")


def read(source: EngineSource, context: SignalContext, fresh_s: float, now_us: int) -> Value:
    """The metric over the engines that answered."""
    values, failures = list[float](), dict[str, str]()
    for address in source.addresses:
        try:
            values.append(_scrape(source, address))
        except (SignalUnknown, ConfigError) as error:
            failures[address] = str(error)
    try:
        covered(len(values), len(source.addresses), source.coverage, "engines")
    except SignalUnknown as error:
        raise SignalUnknown(f"{error}: {next(iter(failures.values()))}") from None
    return Value(aggregate(source.aggregate, values), now_us)


def _scrape(source: EngineSource, address: str) -> float:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SignalUnknown(f"'{address}' is no address: write http(s)://host:port")
    headers = {"Accept": "text/plain"}
    if source.token_file:
        if parts.scheme == "http" and parts.hostname not in LOCAL:
            raise SignalUnknown(f"{address}: a token is sent over https only")
        headers["Authorization"] = f"Bearer {secret_files.read('token_file', Path(source.token_file))}"
    try:
        answer = send_request(
            "GET", address.rstrip("/") + "/metrics", headers=headers, trust=_trust(source.ca_file),
            timeout_s=source.timeout_s, max_bytes=MAX_BYTES,
        )  # fmt: skip
    except httpx.HTTPError as error:
        raise SignalUnknown(f"{address} cannot be reached: {type(error).__name__} {error}") from None
    if answer.status != 200:
        raise SignalUnknown(f"{address} answers HTTP {answer.status}")
    return total(answer.content, source.metric, source.labels, address)


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise SignalUnknown(f"ca_file '{ca_file}': {error}") from None


def total(content: bytes, metric: str, labels: Mapping[str, str], place: str) -> float:
    """The sum of the samples of `metric` that have these labels. SignalUnknown if there is none."""
    try:
        found = list(_samples(content.decode(), metric, labels))
    except (ValueError, KeyError, IndexError) as error:  # the parser's errors for what is no text format
        raise SignalUnknown(f"{place} answers no metrics ({type(error).__name__}: {str(error)[:100]})") from None
    if not found:
        raise SignalUnknown(f"{place} has no sample of {metric} with labels {dict(labels)}")
    return sum(found)


def _samples(text: str, metric: str, labels: Mapping[str, str]) -> Iterator[float]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == metric and labels.items() <= sample.labels.items():
                yield float(sample.value)
