"""Cuts regions out of frames and makes frames smaller, without numpy: rows of bytes are sliced."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from edge_agent.collectors import Frame
from shared.protocol.messages import Box


def cropped(frame: Frame, region: Sequence[float]) -> Frame | None:
    """The part of the frame in `region` (x, y, w, h as shares of it); None if less than a pixel is left of it."""
    height, width, channels = frame.shape
    x, y, w, h = region
    left, right = _span(x, w, width)
    top, bottom = _span(y, h, height)
    if left >= right or top >= bottom:
        return None
    data, stride = memoryview(frame.data).cast("B"), width * channels
    rows = [data[row * stride + left * channels : row * stride + right * channels] for row in range(top, bottom)]
    return replace(frame, shape=(bottom - top, right - left, channels), data=b"".join(rows))


def box_frames(frame: Frame, boxes: Sequence[Box], source: str) -> Iterator[Frame]:
    """The parts of the frame in `boxes`, as frames of `source`; their times differ by microseconds, to tell them
    apart."""
    for place, box in enumerate(boxes):
        part = cropped(frame, (box.x, box.y, box.w, box.h))
        if part is not None:
            yield replace(part, source=source, t_us=frame.t_us + place)


def _span(start: float, length: float, side: int) -> tuple[int, int]:
    if not (math.isfinite(start) and math.isfinite(length)):
        return 0, 0
    return max(0, math.floor(start * side)), min(side, math.ceil((start + length) * side))


def shrunk(frame: Frame, max_bytes: int) -> Frame:
    """The frame with every k-th row and column, with the smallest k for which it fits into `max_bytes`."""
    height, width, channels = frame.shape
    step = 1
    while -(-height // step) * -(-width // step) * channels > max_bytes:
        step += 1
    if step == 1:
        return frame
    data, stride = bytes(frame.data), width * channels
    rows = [_thinned(data[row * stride : (row + 1) * stride], channels, step) for row in range(0, height, step)]
    return replace(frame, shape=(len(rows), -(-width // step), channels), data=b"".join(rows))


def _thinned(row: bytes, channels: int, step: int) -> bytes:
    """Every `step`-th pixel of a row."""
    if channels == 1:
        return row[::step]
    thin = bytearray(-(-len(row) // (channels * step)) * channels)
    for channel in range(channels):
        thin[channel::channels] = row[channel :: channels * step]
    return bytes(thin)
