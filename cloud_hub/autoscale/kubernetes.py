"""Scales a Kubernetes Deployment through its scale subresource.

It reads the replica count, writes it with the resourceVersion that it read (two hubs never overwrite each other), and
translates the answers of the API server. It decides nothing and retries nothing. The token file is read for each call,
because Kubernetes rotates it, and the token is sent only to the API server.
"""

from __future__ import annotations

import json
import re
import ssl
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from cloud_hub.autoscale import Counts, Scaler, ScaleRefused
from cloud_hub.runtime.http_request import HttpResponse, send_request
from shared.errors import ConfigError, NotReady
from shared.suggestions import explained

REMEMBERED = 64
PLACE = "autoscale.options"
MAX_REPLY = 1 << 20
LOCAL = ("127.0.0.1", "::1", "localhost")
DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?\Z")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`url` of the API server; `token_file` holds a service account's token; `ca_file` the cluster's CA (PEM)."""

    url: str
    namespace: str
    deployment: str
    token_file: str
    ca_file: str = ""
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be http(s)://host:port, not '{self.url}'")
        if parts.scheme == "http" and parts.hostname not in LOCAL:
            raise ValueError("url must be https: the token would travel readable to everyone")
        for name in (self.namespace, self.deployment):
            if not DNS_LABEL.match(name):
                raise ValueError(f"'{name}' is no Kubernetes name")
        if not 0 < self.timeout_s <= 60:
            raise ValueError(f"timeout_s must lie between 0 and 60, not {self.timeout_s}")


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Spec(msgspec.Struct, frozen=True):
    replicas: int = 0  # Kubernetes leaves a zero out


class _Scale(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _Spec


def open_scaler(options: dict[str, object]) -> Scaler:
    """Create a scaler for one Deployment; raises ConfigError if an option or a file cannot be used."""
    try:
        read = msgspec.convert(options, Options)
    except msgspec.ValidationError as error:
        raise ConfigError(PLACE, explained(error, Options), "Give url, namespace, deployment and token_file") from None
    return DeploymentScaler(read)


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{PLACE}.ca_file", f"'{ca_file}': {error}", "Name a readable PEM file") from None


class DeploymentScaler:
    """Scales `deployments/<name>` of one namespace. Opens a connection for each call, so there is nothing to close."""

    def __init__(self, options: Options) -> None:
        self.name = f"kubernetes:{options.namespace}/{options.deployment}"
        self._options = options
        self._path = f"/apis/apps/v1/namespaces/{options.namespace}/deployments/{options.deployment}/scale"
        self._trust = _trust(options.ca_file)
        self._unknown: tuple[str, str] = ("", "")  # (key, resourceVersion) of a write whose outcome is not known
        self._done: deque[str] = deque(maxlen=REMEMBERED)
        self._token()

    def current(self) -> Counts:
        """The desired replicas; see `Scaler`."""
        return Counts(desired=self._read().spec.replicas)

    def scale(self, to: int, key: str, *, dry_run: bool = False) -> int:
        """Set the desired replicas; see `Scaler`. One call at a time.

        A write without an answer may have succeeded. Its repeat carries the old resourceVersion, so that the server
        cannot apply it twice. Keys are remembered by this object only, not across a restart.
        """
        if to < 0:
            raise ScaleRefused(f"{self.name}: {to} replicas cannot be; correct the autoscaler's bounds")
        seen = self._read()
        if dry_run:
            return to
        if key in self._done or seen.spec.replicas == to:
            self._done.append(key)
            return seen.spec.replicas
        repeated = self._unknown[0] == key
        if not repeated:
            self._unknown = (key, seen.metadata.resource_version)
        answer = self._write(to, self._unknown[1])
        if answer.status < 500:
            self._unknown = ("", "")
        if answer.status == 200 or (repeated and answer.status == 409):
            self._done.append(key)  # after such a conflict the outcome is unknown: do not repeat it
        return self._scale_of(answer).spec.replicas

    def _write(self, to: int, version: str) -> HttpResponse:
        body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": to}}
        return self._call("PATCH", json.dumps(body).encode())

    def _read(self) -> _Scale:
        return self._scale_of(self._call("GET"))

    def _token(self) -> str:
        place, cure = f"{PLACE}.token_file", "Name a readable file with a service account's token"
        try:
            token = Path(self._options.token_file).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(place, f"'{self._options.token_file}': {error}", cure) from None
        if not token.isprintable() or not token:
            raise ConfigError(place, f"'{self._options.token_file}' holds no token", cure)
        return token

    def _call(self, method: str, body: bytes | None = None) -> HttpResponse:
        try:
            headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json"}
        except ConfigError as error:  # fatal at start; later the file may be being replaced
            raise NotReady(f"{self.name}: {error}") from None
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json"
        url, query = self._options.url.rstrip("/") + self._path, {"fieldManager": "tidegate"} if body else None
        try:  # trust_env off: a proxy of the environment must not see the token
            return send_request(
                method, url, headers=headers, content=body, query=query, trust=self._trust,
                timeout_s=self._options.timeout_s, max_bytes=MAX_REPLY,
            )  # fmt: skip
        except httpx.TimeoutException:
            raise NotReady(f"{self.name}: no answer within {self._options.timeout_s:g} s", 5.0) from None
        except httpx.HTTPError as error:
            raise NotReady(f"{self.name}: cannot be reached: {error}", 5.0) from None

    def _scale_of(self, answer: HttpResponse) -> _Scale:
        if answer.status != 200:
            raise _refusal(self.name, answer)
        try:
            return msgspec.json.decode(answer.content, type=_Scale)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise NotReady(f"{self.name}: the answer is no Scale ({error}); is this a Kubernetes API?", 30.0) from None


WHO_MUST_ACT = {
    401: "the token is not accepted: the cluster's operator must renew what token_file names",
    403: "not allowed: the cluster's operator must raise the quota or grant get and patch on deployments/scale",
    404: "there is no such Deployment: the cluster's operator must create it, or correct namespace and deployment",
    422: "the count is not acceptable: correct the autoscaler's bounds",
}


def _message(answer: HttpResponse) -> str:
    try:
        body: Any = msgspec.json.decode(answer.content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return answer.reason
    return str(body.get("message", ""))[:300] if isinstance(body, dict) else answer.reason


def _wait_s(answer: HttpResponse, otherwise: float) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), 300.0) if text.isascii() and text.isdigit() else otherwise


def _refusal(name: str, answer: HttpResponse) -> ScaleRefused | NotReady:
    status, text = answer.status, _message(answer)
    if status == 409:
        return NotReady(f"{name}: it changed since it was read; no action needed, decide again ({text})", 0.0)
    if status == 429:
        return NotReady(f"{name}: too many requests; no action needed, retry later ({text})", _wait_s(answer, 5.0))
    if status >= 500:
        return NotReady(f"{name}: the API server fails with {status} ({text})", _wait_s(answer, 10.0))
    return ScaleRefused(f"{name}: {WHO_MUST_ACT.get(status, f'unexpected answer {status}')} ({text})")
