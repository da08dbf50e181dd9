"""Scales whatever has an HTTP API, by a template: one request that changes the count, one that reads it.

The same rules as for webhooks hold: addresses come from the settings only, a private network must be meant, redirects
are not followed, time and size are bounded. Secrets are read from files for each call, and no error shows a URL, a
header or the body of an answer.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from cloud_hub.autoscale import Counts, Scaler, ScaleRefused
from cloud_hub.autoscale.platforms.http_template import HEADER, Read, Write, count_at, filled, filled_url, unlike, uses
from cloud_hub.autoscale.platforms.idempotent import IdempotentScaler, OutcomeUnknown, Reading
from cloud_hub.autoscale.platforms.options import LOCAL, PLACE, read_options
from cloud_hub.runtime.http_request import HttpResponse, has_public_address, send_request
from cloud_hub.security import secret_files
from shared.errors import ConfigError, NotReady

MAX_REPLY = 1 << 20
BUSY = {408, 409, 423, 425, 429}
"""These statuses say that the request was not carried out now, and may be later."""
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`name` of the group, `read`, and `write`; `scale_in` is a request of its own for fewer instances.

    `secret_headers` are files that hold a header's whole value. With `idempotent` the API itself ignores a repeat of
    the key, which `key_header` or {key} gives it.
    """

    name: str
    read: Read
    write: Write
    scale_in: Write | None = None
    headers: dict[str, str] = {}
    secret_headers: dict[str, str] = {}
    key_header: str = "Idempotency-Key"
    idempotent: bool = False
    private: bool = False
    ca_file: str = ""
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ValueError("name must be printable")
        for header in (*self.headers, *self.secret_headers, *filter(None, [self.key_header])):
            if not HEADER.match(header):
                raise ValueError(f"'{header}' is no name of a header")
        if not all(value.isprintable() and value.isascii() for value in self.headers.values()):
            raise ValueError("headers must be printable ASCII")
        for url in (self.read.url, self.write.url, (self.scale_in or self.write).url):
            parts = urlsplit(url)
            plain = parts.scheme == "http" and parts.hostname not in LOCAL
            if plain and (self.secret_headers or not self.private):
                raise ValueError("url must be https: plain http only in a private network, and without secret_headers")
        if self.idempotent and not (self.key_header or uses(self.write, "key")):
            raise ValueError("idempotent needs key_header, or {key} in the template")
        if not 0 < self.timeout_s <= 60:
            raise ValueError(f"timeout_s must lie between 0 and 60, not {self.timeout_s}")


def open_scaler(options: dict[str, object]) -> Scaler:
    """Create a scaler by template; raises ConfigError if an option or a file cannot be used."""
    return IdempotentScaler(HttpPlatform(read_options(options, Options, "Give name, read and write")))


class HttpPlatform:
    """One group behind an HTTP API."""

    def __init__(self, options: Options) -> None:
        self.name = f"http:{options.name}"
        self.repeatable = options.idempotent
        self._options = options
        try:
            self._trust = ssl.create_default_context(cafile=options.ca_file or None)
        except OSError as error:
            raise ConfigError(f"{PLACE}.ca_file", f"cannot be used ({error.strerror})", "Name a PEM file") from None
        self._headers()

    def read(self) -> Reading:
        """The counts at the pointers of `read`."""
        read = self._options.read
        answer = self._send("GET", read.url, None, {}, NotReady)
        if answer.status != 200:
            raise self._refusal(answer, NotReady)
        document = self._json(answer, NotReady)
        if place := unlike(document, read.expect):
            raise NotReady(f"{self.name}: the answer differs from read.expect at {place}; nothing was believed", 30.0)
        desired = count_at(document, read.desired)
        if desired is None:
            raise NotReady(f"{self.name}: the answer has no count at {read.desired}; nothing was believed", 30.0)
        ready, least, most = (count_at(document, place) for place in (read.ready, read.minimum, read.maximum))
        return Reading(counts=Counts(desired=desired, ready=ready, minimum=least, maximum=most))

    def write(self, to: int, key: str, seen: Reading) -> None:
        """Send the template, filled."""
        before = seen.counts.desired
        write = self._template(to, before)
        values: dict[str, int | str] = {"count": to, "before": before, "add": to - before, "key": key}
        body = None if write.body is None else msgspec.json.encode(filled(write.body, values))
        more = {self._options.key_header: header_value(key)} if self._options.key_header else {}
        answer = self._send(write.method, filled_url(write.url, values), body, more, OutcomeUnknown)
        if answer.status not in write.accepted:
            raise self._refusal(answer, OutcomeUnknown)
        if write.expect and (place := unlike(self._json(answer, OutcomeUnknown), write.expect)):
            raise OutcomeUnknown(f"{self.name}: the answer differs from write.expect at {place}", 30.0)

    def rehearse(self, to: int, seen: Reading) -> None:
        """Fill the template and check the host, without sending it."""
        self._template(to, seen.counts.desired)

    def _template(self, to: int, before: int) -> Write:
        options = self._options
        if to < before and options.scale_in is not None:
            return options.scale_in
        if to < before and uses(options.write, "add"):
            cure = "give scale_in, or wait until instances end by themselves"
            raise ScaleRefused(f"{self.name}: the template adds instances, and cannot go from {before} to {to}: {cure}")
        return options.write

    def _headers(self) -> dict[str, str]:
        secrets = self._options.secret_headers
        read = {name: secret_files.read(f"{PLACE}.secret_headers.{name}", path) for name, path in secrets.items()}
        return {"Accept": "application/json", "User-Agent": "tidegate-hub", **self._options.headers, **read}

    def _send(
        self, method: str, url: str, body: bytes | None, more: Mapping[str, str], failed: type[NotReady]
    ) -> HttpResponse:
        self._require_allowed(url)
        try:
            headers = {**self._headers(), **more}
        except ConfigError as error:  # fatal at start; later the file may be being replaced
            raise NotReady(f"{self.name}: {error}", 5.0) from None
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            return send_request(
                method, url, headers=headers, content=body, trust=self._trust, timeout_s=self._options.timeout_s,
                max_bytes=MAX_REPLY,
            )  # fmt: skip
        except NOT_SENT as error:
            raise NotReady(f"{self.name}: cannot be reached ({type(error).__name__})", 5.0) from None
        except httpx.TimeoutException:
            raise failed(f"{self.name}: no answer within {self._options.timeout_s:g} s", 5.0) from None
        except (httpx.HTTPError, ValueError) as error:
            raise failed(f"{self.name}: no usable answer ({type(error).__name__})", 5.0) from None

    def _require_allowed(self, url: str) -> None:
        if self._options.private:
            return
        try:
            public = has_public_address(url)
        except OSError:
            raise NotReady(f"{self.name}: its host has no address", 5.0) from None
        if not public:
            cure = f"set {PLACE}.private = true if that is meant"
            raise ScaleRefused(f"{self.name}: its host is within a private network: {cure}")

    def _json(self, answer: HttpResponse, failed: type[NotReady]) -> Any:
        try:
            return msgspec.json.decode(answer.content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise failed(f"{self.name}: the answer is no JSON; is a proxy in between?", 30.0) from None

    def _refusal(self, answer: HttpResponse, failed: type[NotReady]) -> ScaleRefused | NotReady:
        status, name = answer.status, self.name
        if status == 401:
            return NotReady(f"{name}: the credentials are not accepted (HTTP 401): renew secret_headers", 30.0)
        if status in BUSY:
            return NotReady(f"{name}: busy (HTTP {status}); no action needed", _wait_s(answer))
        if status >= 500 or 200 <= status < 300:
            return failed(f"{name}: answers HTTP {status}", _wait_s(answer))
        more = ": redirects are not followed" if 300 <= status < 400 else ""
        return ScaleRefused(f"{name}: refuses with HTTP {status}{more}; check the template, the rights and the limits")


def header_value(key: str) -> str:
    """The key as a header may hold it: what is no printable ASCII is %-encoded."""
    return quote(key, safe="".join(map(chr, range(0x21, 0x7F))).replace("%", ""))


def _wait_s(answer: HttpResponse) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), 300.0) if text.isascii() and text.isdigit() else 10.0
