"""HTTP POST to the URL of a channel: follows no redirect, limits the response, and keeps the URL out of errors."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec

from cloud_hub.runtime.http_request import send_request
from cloud_hub.security import secret_files
from cloud_hub.settings.channels import Web, address
from shared.errors import ConfigError, NotReady

MAX_REPLY = 1 << 16

for _name in ("httpx", "httpcore"):  # they log URLs, and the URL of a robot is its secret
    logging.getLogger(_name).setLevel(logging.WARNING)


class Post:
    """Posts to the URL of the settings. A `url_file` is read for each request, so it can change while the hub runs."""

    def __init__(self, place: str, settings: Web) -> None:
        self.place, self._settings = place, settings
        try:
            self._trust = ssl.create_default_context(cafile=settings.ca_file or None)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{place}.ca_file", f"cannot be used ({error})", "Name a readable PEM file") from None
        self.address()

    def address(self) -> str:
        """The URL; raises ConfigError."""
        if not self._settings.url_file:
            return self._settings.url
        place = f"{self.place}.url_file"
        try:
            return address(secret_files.read(place, self._settings.url_file))
        except ValueError as error:
            raise ConfigError(
                place, f"holds no usable address: {error}", "Copy it again from the robot's page"
            ) from None

    def __call__(
        self,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        path: str = "",
        query: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Return (status, the beginning of the response). Raises NotReady when there is no response in time."""
        url, limit = self.address(), self._settings.timeout_s
        more = {"Content-Type": "application/json", "User-Agent": "tidegate-hub", **(headers or {})}
        try:
            target = httpx.URL(url if not path else url.rstrip("/") + path).copy_merge_params(dict(query or {}))
            answer = send_request(
                "POST", target, headers=more, content=body, trust=self._trust, proxy=self._settings.proxy or "",
                timeout_s=limit, max_bytes=MAX_REPLY, cut=True,
            )  # fmt: skip
        except httpx.TimeoutException:
            raise NotReady(f"no answer within {limit:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # its text may show the address
            raise NotReady(f"cannot be reached ({type(error).__name__}{_errno(error)})") from None
        return answer.status, answer.content


def _errno(error: BaseException | None) -> str:
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return f": {error.strerror}"
        error = error.__cause__ or error.__context__
    return ""


def response_error(place: str, status: int, text: str = "") -> ConfigError | NotReady:
    """The error for an unsuccessful status: an overloaded server is retried soon, anything else late."""
    reason = f"HTTP {status}{': ' + text if text else ''}"
    if status in (408, 429) or status >= 500:
        return NotReady(reason, 30.0 if status == 429 else 5.0)
    return ConfigError(place, f"refused ({reason})", "Check address, secret and rights of this channel")


def json_object(content: bytes) -> dict[str, Any]:
    """The JSON object in an answer, {} when there is none."""
    try:
        decoded = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}
