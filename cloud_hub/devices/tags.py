"""Validates and changes tags: the hub's metadata about a device, for queries and configurations.

Devices do not see them. The rules are those of Azure IoT Hub's twin tags, plus limits of the query language.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from sqlmodel import Session

from cloud_hub.audit import trail
from cloud_hub.database.tables import Device
from cloud_hub.devices import dependencies
from cloud_hub.errors import HubError
from shared.protocol.codec import encode
from shared.twin import shadow

Tags = dict[str, Any]

MAX_BYTES = 8192
MAX_LEVELS = 10
MAX_NAME_BYTES = 1024
MAX_TEXT_BYTES = 4096
MAX_WHOLE = 1 << 52
_BARRED = frozenset('.$ "\\')


def change(
    session: Session, device: Device, patch: Tags, now_us: int, *, actor: str, trace: str = "", whole: bool = False
) -> bool:
    """Apply a merge patch to the device's tags (null deletes), or with `whole` replace them by `patch`.

    Returns whether anything changed; only then the version is raised and an audit row written. Raises HubError 422 for
    invalid tags, 413 above 8 KB.
    """
    check(patch)
    tags = shadow.merge({} if whole else device.tags, patch)
    if shadow.nesting_depth(tags) > MAX_LEVELS:
        raise HubError(422, "The tags are nested too deep", f"at most {MAX_LEVELS} objects and arrays in one another")
    if len(encode(tags)) > MAX_BYTES:
        raise HubError(413, "The tags are too large", f"all tags of a device fit in {MAX_BYTES} bytes of JSON")
    if shadow.json_equal(tags, device.tags):
        return False
    dependencies.save(session, device.id, device.tags, tags)
    device.tags, device.tags_version = tags, device.tags_version + 1
    session.add(device)
    kind = "tags.replaced" if whole else "tags.changed"
    trail.add(
        session, now_us, actor, kind, "tags", device=device.id, trace=trace, version=device.tags_version, tags=patch
    )
    return True


def check(patch: Tags) -> None:
    """Raise HubError 413 or 422 if the tags are invalid. The depth is checked before anything recursive."""
    if shadow.nesting_depth(patch) > MAX_LEVELS:
        raise HubError(422, "The tags are nested too deep", f"at most {MAX_LEVELS} objects and arrays in one another")
    reason = next(_faults(patch), None)
    if reason is not None:
        raise HubError(422, "Invalid tags", reason)
    if len(encode(patch)) > MAX_BYTES:
        raise HubError(413, "The tags are too large", f"all tags of a device fit in {MAX_BYTES} bytes of JSON")


def _faults(value: Any, place: str = "tags", inside_array: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if fault := _name_fault(name):
                yield f"{place}: a name {fault}"
            yield from _faults(inner, f"{place}.{name[:40]}", inside_array)
    elif isinstance(value, list):
        for inner in value:
            yield from _faults(inner, place, inside_array=True)
    elif value is None and inside_array:
        yield f"{place}: null deletes a tag, and none can stand in an array"
    elif fault := _value_fault(value):
        yield f"{place}: {fault}"


def _name_fault(name: str) -> str:
    if not name or len(name.encode()) > MAX_NAME_BYTES:
        return f"has 1 to {MAX_NAME_BYTES} bytes"
    if any(letter in _BARRED or ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name):
        return "holds no dot, dollar, space, quote, backslash or control character"
    return ""


def _value_fault(value: Any) -> str:
    if isinstance(value, str):
        if "\0" in value or len(value.encode()) > MAX_TEXT_BYTES:
            return f"a text has at most {MAX_TEXT_BYTES} bytes and no NUL"
    elif isinstance(value, float):
        if not math.isfinite(value):
            return "numbers must be finite"
    elif isinstance(value, int) and not -MAX_WHOLE <= value < MAX_WHOLE:
        return "whole numbers are -2^52 to 2^52-1"
    return ""
