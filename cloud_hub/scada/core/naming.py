"""Maps Sparkplug names to device ids and metric names. Pure.

Sparkplug names may hold almost any character; ids and metric names here are plain. Two names may map to the same text:
the later one gets a short hash of the original (`disambiguate`). A name once given is stored, and stays.
"""

from __future__ import annotations

import hashlib
import re

DEVICE_MOST, METRIC_MOST, HASH = 60, 128, 8
_OTHER = re.compile(r"[^a-z0-9_]+")
_OTHER_IN_METRIC = re.compile(r"[^a-z0-9_./]+")
_SEPARATORS = re.compile(r"-*[./][-./]*")


def digest(*parts: str) -> str:
    """A hash of the parts: 32 hexadecimal digits."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        made.update(b"%d:%b" % (len(raw), raw))
    return made.hexdigest()


def device_id(group: str, node: str, device: str = "") -> str:
    """The device id of a node or device: `line-1-press-3-drive` of group `Line 1`, node `Press 3`, device `Drive`."""
    parts = [_slug(part) for part in (group, node, device) if part]
    whole = "-".join(part or "x" for part in parts).lstrip("_-") or "x"
    lost = "" in parts  # of a name without a latin letter or digit nothing is left
    fits = len(whole) <= DEVICE_MOST and not lost
    return whole if fits else disambiguate(whole, digest(group, node, device), DEVICE_MOST)


def metric_name(name: str) -> str:
    """The metric name of a Sparkplug metric: `motor-1/speed` of `Motor 1/Speed`."""
    plain = _SEPARATORS.sub(lambda found: "/" if "/" in found[0] else ".", _OTHER_IN_METRIC.sub("-", name.lower()))
    plain = plain.strip("-./")
    if plain and len(plain) <= METRIC_MOST:
        return plain
    return disambiguate(plain or "x", digest(name), METRIC_MOST)


def disambiguate(name: str, number: str, most: int) -> str:
    """The name with the start of a digest appended, if the name itself is taken or too long."""
    return f"{name[: most - HASH - 1].rstrip('./-')}-{number[:HASH]}"


def _slug(text: str) -> str:
    return _OTHER.sub("-", text.lower()).strip("-")
