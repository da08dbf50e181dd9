"""Collector `images`: frames from a NumPy file (`.npy`, uint8, [frames, height, width(, 3)]), played in a loop.

It simulates a camera. The file is read without NumPy, so that the agent stays small. When the file is replaced, the
new one is used from the next frame on.
"""

from __future__ import annotations

import ast
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from edge_agent.collectors import Frame
from edge_agent.config import CollectorTable, options
from shared.errors import ConfigError, NotReady
from shared.protocol.codec import MAX_PAYLOAD
from shared.protocol.messages import Metric

MAX_FRAME = MAX_PAYLOAD // 2
"""Maximum bytes of one frame: an escalation sends it as base64, four bytes for three, in one message."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path` of the `.npy` file; `color` is the order of the channels of a file with three."""

    path: str
    color: Literal["rgb", "bgr"] = "rgb"


def read_header(head: bytes) -> tuple[tuple[int, int, int, int], int]:
    """((frames, height, width, channels), offset of the data) from the start of a `.npy` file; raises ValueError."""
    if head[:6] != b"\x93NUMPY":
        raise ValueError("is no NumPy file")
    try:
        wide = head[6] >= 2
        (length,) = struct.unpack_from("<I" if wide else "<H", head, 8)
        start = 12 if wide else 10
        fields = ast.literal_eval(head[start : start + length].decode("latin1"))
        kind, order, shape = fields["descr"], fields["fortran_order"], fields["shape"]
        valid = len(shape) in {3, 4} and all(type(side) is int and side > 0 for side in shape)
    except (struct.error, IndexError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"has a broken NumPy header ({error})") from error
    if kind != "|u1" or order or not valid or shape[3:] not in {(), (1,), (3,)}:
        raise ValueError(f"holds {kind} {shape}, wanted uint8 [frames, height, width] or [frames, height, width, 3]")
    if (size := math.prod(shape[1:])) > MAX_FRAME:
        raise ValueError(f"has frames of {size} bytes, more than the {MAX_FRAME} that one message can carry")
    count, height, width, channels = (*shape, 1)[:4]
    return (count, height, width, channels), start + length


class ImagesCollector:
    """Plays the frames of one file, one frame per period."""

    def __init__(self, name: str, period_s: float | None, chosen: Options) -> None:
        self.name, self.period_s = name, period_s if period_s is not None else 0.05
        self.metrics: list[Metric] = []
        self._path = Path(chosen.path)
        self._seen: tuple[int, int] | None = None
        self._shape, self._frames = (0, 0, 0), b""
        self._color = chosen.color
        self._count = 0
        self._number = 0
        self._reload()

    def _reload(self) -> None:
        status = self._path.stat()
        seen = (status.st_ino, status.st_mtime_ns)
        if seen == self._seen:
            return
        content = self._path.read_bytes()
        (count, *shape), start = read_header(content[:4096])
        height, width, channels = shape
        if len(content) - start != count * height * width * channels:
            raise ValueError("is cut short")
        self._seen, self._count, self._shape, self._frames = seen, count, (height, width, channels), content[start:]

    def collect(self, now_us: int) -> Iterator[Frame]:
        """Yield the next frame; raises NotReady while the file cannot be read."""
        try:
            self._reload()
        except (OSError, ValueError) as error:
            raise NotReady(f"{self._path}: {error}", 1.0) from error
        size = math.prod(self._shape)
        start = self._number % self._count * size
        data = self._frames[start : start + size]
        color = "gray" if self._shape[2] == 1 else self._color
        yield Frame(source=self.name, number=self._number, t_us=now_us, shape=self._shape, data=data, color=color)
        self._number += 1

    def close(self) -> None:
        """Do nothing: it has no resources."""


def open_collector(table: CollectorTable) -> ImagesCollector:
    """Entry point `images`."""
    chosen = options(Options, table)
    try:
        return ImagesCollector(table.name, table.period_s, chosen)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"collector '{table.name}'", f"{chosen.path}: {error}", "Set `path` to a .npy file"
        ) from error
