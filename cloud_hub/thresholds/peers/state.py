"""Serialises the state of `peers`: named arrays after a JSON header; versioned, with a checksum, without pickle."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.scores.state import InvalidState

Array = npt.NDArray[Any]
MAGIC, VERSION = b"TGPE", 1
HEADER = struct.Struct("<4sHxxII")
KINDS = ("<f8", "<f4", "<i8")


def pack(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Serialise `about` (JSON) and arrays, little-endian, deflated; the same state gives the same bytes."""
    small = {name: np.ascontiguousarray(part, part.dtype.newbyteorder("<")) for name, part in arrays.items()}
    shapes = [[name, part.dtype.str, part.shape] for name, part in small.items()]
    header = json.dumps({"about": about, "arrays": shapes}).encode()
    body = zlib.compress(header + b"".join(part.tobytes() for part in small.values()), 1)
    return HEADER.pack(MAGIC, VERSION, len(header), zlib.crc32(body)) + body


def unpack(packed: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The inverse of `pack`. Raises InvalidState for another version and for damaged bytes."""
    if len(packed) < HEADER.size:
        raise InvalidState("too short for a state of peers")
    magic, version, length, check = HEADER.unpack_from(packed)
    if (magic, version) != (MAGIC, VERSION):
        raise InvalidState(f"not a state of peers of version {VERSION}")
    if zlib.crc32(packed[HEADER.size :]) != check:
        raise InvalidState("the state of peers is damaged")
    try:
        body = zlib.decompress(packed[HEADER.size :])
        header = json.loads(body[:length])
        return header["about"], _arrays(header["arrays"], body[length:])
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise InvalidState(f"the state of peers cannot be read: {error}") from None


def _arrays(shapes: list[tuple[str, str, list[int]]], body: bytes) -> dict[str, Array]:
    found, at = dict[str, Array](), 0
    for name, kind, shape in shapes:
        if kind not in KINDS:
            raise ValueError(f"'{name}' has a kind of number that is not kept")
        many = int(np.prod(shape, dtype=np.int64))
        part = np.frombuffer(body, kind, many, at)
        found[name], at = part.reshape(shape).astype(part.dtype.newbyteorder("=")), at + part.nbytes
    if at != len(body):
        raise ValueError("its length is wrong")
    return found


def fill(detector: object, names: tuple[str, ...], arrays: Mapping[str, Array], place: str) -> None:
    """Set the arrays of a new detector of the same shape. Raises InvalidState if they do not fit."""
    for name in names:
        fresh, stored = getattr(detector, name), arrays.get(place + name)
        if stored is None or (stored.shape, stored.dtype) != (fresh.shape, fresh.dtype):
            raise InvalidState(f"the state of peers does not fit: '{place + name}'")
        setattr(detector, name, stored)
