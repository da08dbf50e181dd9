"""The template of an HTTP platform: what a person writes, filled with a count and compared with an answer. Pure."""

from __future__ import annotations

import re
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit

import msgspec

Json: TypeAlias = Any
PLACEHOLDER = re.compile(r"\{(count|before|add|key)\}")
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
MISSING = object()


class Write(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that changes the count. Strings may hold {count}, {before}, {add} (count - before) and {key}.

    A string that is nothing but {count}, {before} or {add} becomes a number. `accepted` are the statuses of success,
    and `expect` what the answer's JSON must hold then, by JSON pointer (RFC 6901).
    """

    url: str
    method: str = "POST"
    body: Json = None
    accepted: tuple[int, ...] = (200, 201, 202, 204)
    expect: dict[str, Json] = {}

    def __post_init__(self) -> None:
        check_url(self.url)
        if self.method not in METHODS - {"GET"}:
            raise ValueError(f"method must be POST, PUT, PATCH or DELETE, not '{self.method}'")
        if not self.accepted or not all(200 <= status < 300 for status in self.accepted):
            raise ValueError("accepted must hold statuses from 200 to 299")


class Read(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GET that says what holds: JSON pointers to the counts, and `expect`, which tells this group from others."""

    url: str
    desired: str
    ready: str = ""
    minimum: str = ""
    maximum: str = ""
    expect: dict[str, Json] = {}

    def __post_init__(self) -> None:
        check_url(self.url)
        if not all(place.startswith("/") for place in filter(None, (self.desired, self.ready))):
            raise ValueError("desired and ready must be JSON pointers such as /status/count")


def check_url(url: str) -> None:
    """Raise ValueError unless it is an http(s) URL without a login in it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("url must be http(s)://host/path, without a login in it")
    if PLACEHOLDER.search(parts.netloc):
        raise ValueError("url must have no placeholder in its host")


def filled_url(url: str, values: dict[str, int | str]) -> str:
    """The URL with its placeholders replaced, percent-encoded."""
    return PLACEHOLDER.sub(lambda found: quote(str(values[found[1]]), safe=""), url)


def filled(template: Json, values: dict[str, int | str]) -> Json:
    """The JSON with its placeholders replaced, in values and not in keys."""
    if isinstance(template, dict):
        return {key: filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, values) for value in template]
    if not isinstance(template, str):
        return template
    whole = PLACEHOLDER.fullmatch(template)
    return values[whole[1]] if whole else PLACEHOLDER.sub(lambda found: str(values[found[1]]), template)


def uses(write: Write, name: str) -> bool:
    """Whether the template has the placeholder."""
    return f"{{{name}}}" in write.url or f"{{{name}}}" in msgspec.json.encode(write.body).decode()


def at(document: Json, pointer: str) -> Json:
    """The value at a JSON pointer, or MISSING."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and name.isascii() and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        else:
            return MISSING
    return document


def count_at(document: Json, pointer: str) -> int | None:
    """The count at a JSON pointer; None if there is none."""
    found = at(document, pointer) if pointer else MISSING
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 31 else None


def unlike(document: Json, expect: dict[str, Json]) -> str:
    """The first pointer whose value is not the expected one; "" if all are."""
    return next((pointer for pointer, value in expect.items() if not same(at(document, pointer), value)), "")


def same(found: Json, wanted: Json) -> bool:
    """Equal as JSON: true is not 1."""
    return type(found) is type(wanted) and bool(found == wanted)
