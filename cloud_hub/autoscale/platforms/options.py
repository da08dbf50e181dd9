"""Reads the table of a target's options."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from shared.errors import ConfigError
from shared.suggestions import explained

PLACE = "autoscale.options"
LOCAL = ("127.0.0.1", "::1", "localhost")

Read = TypeVar("Read", bound=msgspec.Struct)


def read_options(options: dict[str, object], kind: type[Read], cure: str) -> Read:
    """The options as a `kind`; raises ConfigError."""
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(PLACE, explained(error, kind), cure) from None


def require_https(url: str) -> None:
    """Raise ValueError unless the URL is https, or http on this machine: credentials would travel readable."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must be http(s)://host:port, not '{url}'")
    if parts.scheme == "http" and parts.hostname not in LOCAL:
        raise ValueError("url must be https: the credentials would travel readable to everyone")
