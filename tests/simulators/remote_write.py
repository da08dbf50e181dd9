"""Requests of remote write 1.0 as a sender makes them: protobuf by hand, snappy block."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import cramjam

HEADERS = {
    "Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "User-Agent": "Prometheus/2.42.0",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}  # fmt: skip
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]

One = tuple[Mapping[str, str], Iterable[tuple[int, float]]]
"""(labels, samples as milliseconds and value)"""


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def part(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def message(series: Iterable[One]) -> bytes:
    whole = b""
    for labels, samples in series:
        inner = b"".join(part(1, part(1, k.encode()) + part(2, v.encode())) for k, v in sorted(labels.items()))
        for t_ms, value in samples:
            inner += part(2, b"\x09" + struct.pack("<d", value) + b"\x10" + varint(t_ms))
        whole += part(1, inner)
    return whole


def block(plain: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(plain))


def request(*series: One) -> bytes:
    return block(message(series))
