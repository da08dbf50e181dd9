"""Conditional requests (RFC 9110 section 13): an entity tag is a version in quotes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

from cloud_hub.errors import HubError

IfMatch = Annotated[str | None, Header()]


def etag(version: int) -> str:
    """The entity tag of a version."""
    return f'"{version}"'


def check_if_match(condition: str | None, version: int) -> None:
    """Raise HubError 412 unless If-Match, where sent, names this version; `*` is any that exists (0 does not)."""
    if condition is None:
        return
    tags = [tag.strip() for tag in condition.split(",")]
    if ("*" in tags and version > 0) or etag(version) in tags:
        return
    detail = f"If-Match is {condition[:80]}, the version is {version}: read it again and repeat the change"
    raise HubError(412, "Precondition failed", detail)
