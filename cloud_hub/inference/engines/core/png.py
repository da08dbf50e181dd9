"""Writes pixels as PNG, the one lossless format that every model with vision reads."""

from __future__ import annotations

import base64
import struct
import zlib

GRAY, RGB = 0, 2


def png(width: int, height: int, pixels: bytes, channels: int) -> bytes:
    """A PNG of 8-bit pixels, gray (1 channel) or RGB (3 channels), rows from the top; raises ValueError."""
    if channels not in (1, 3) or len(pixels) != width * height * channels or not pixels:
        raise ValueError(f"{len(pixels)} bytes are no image of {width} x {height} with {channels} channels")
    stride = width * channels
    rows = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride))
    header = struct.pack(">IIBBBBB", width, height, 8, RGB if channels == 3 else GRAY, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def data_url(image: bytes) -> str:
    """A PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(image).decode()
