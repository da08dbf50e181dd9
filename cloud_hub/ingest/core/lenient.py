"""Parses a batch that contains invalid JSON items: the head, and each item by itself. Pure.

Third-party devices write NaN, 1e999, half surrogate pairs, duplicate names, trailing commas or Latin-1. Such an item
does not affect the others. Only the head (`epoch`, `first`, `lost`) must be valid, and brackets and quotes must match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from shared.errors import WireError
from shared.protocol.codec import MAX_ITEMS, MAX_PAYLOAD, decode
from shared.protocol.messages import Batch

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{},]', re.DOTALL)
"""A string or a structural character. A string may lack its end, so that matching never backtracks."""
_MEMBER = re.compile(rb'\s*"(epoch|first|clock|items|lost)"\s*:\s*')
_OPENING, _CLOSING, _COMMA = b"[{", b"]}", ord(",")


@dataclass(frozen=True, slots=True)
class InvalidItem:
    """Replaces an item of a batch that cannot be parsed."""

    reason: str


def read_batch(payload: bytes, topic: str) -> Batch:
    """Parse a batch, with `InvalidItem` for each item that is no JSON object.

    More than MAX_ITEMS items are all invalid. Raises WireError if the head cannot be parsed.
    """
    payload = payload.strip()
    if len(payload) > MAX_PAYLOAD or not payload.startswith(b"{"):
        raise WireError("is no batch", topic)
    members, end = _split(payload, 0, topic)
    if end != len(payload):
        raise WireError("something follows the batch", topic)
    head: list[bytes] = []
    items: list[Any] = []
    for member in members:
        if match := _MEMBER.match(member):
            name, value = match[1], member[match.end() :]
            if name == b"items" and value.startswith(b"["):
                items = _items(value, topic)
                value = b"[0]" if items else b"[]"
            head.append(b'"%b":%b' % (name, value))
    return replace(decode(Batch, b"{%b}" % b",".join(head), topic), items=items)


def _items(array: bytes, topic: str) -> list[Any]:
    spans, _ = _split(array, 0, topic)
    if len(spans) > MAX_ITEMS:
        return [InvalidItem("too many items")] * len(spans)
    return [_item(span) for span in spans]


def _item(span: bytes) -> Any:
    try:
        return decode(dict, span)
    except WireError as error:
        return InvalidItem(error.reason)


def _split(payload: bytes, start: int, topic: str) -> tuple[list[bytes], int]:
    """Split the array or object that opens at `start` at its commas; returns the parts and the end.

    A trailing comma is ignored, as in JSON5.
    """
    parts: list[bytes] = []
    depth, begin = 0, start + 1
    for token in _TOKEN.finditer(payload, start):
        at = token.start()
        character = payload[at]
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        if depth == 0 or (depth == 1 and character == _COMMA):
            parts.append(payload[begin:at])
            begin = at + 1
        if depth == 0:
            return (parts if parts[-1].strip() else parts[:-1]), begin
    raise WireError("brackets or quotes do not match", topic)
