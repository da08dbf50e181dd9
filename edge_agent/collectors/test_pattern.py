"""Collector `test_pattern`: a moving shape whose label is known, to try a model, a gate or a page without a camera.

The shape changes with each `hold` frames: none, square, disc, stripes. The state metric `<name>/label` says which one
is shown, so that a model's answer can be compared with the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from edge_agent.collectors import Frame
from edge_agent.config import CollectorTable, options
from shared.errors import ConfigError
from shared.ids import metric_name
from shared.protocol.messages import Color, Metric, Sample

LABELS = ("none", "square", "disc", "stripes")
DARK, BRIGHT = 32, 224
MAX_SIDE = 1024


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and colour of the frames; the shape changes after `hold` frames and moves `speed` pixels a frame."""

    width: int = 64
    height: int = 64
    color: Color = "gray"
    hold: int = 20
    speed: int = 2

    def __post_init__(self) -> None:
        if not (8 <= self.width <= MAX_SIDE and 8 <= self.height <= MAX_SIDE):
            raise ValueError(f"width and height must be within 8..{MAX_SIDE}")
        if not 1 <= self.hold <= 1_000_000 or not 0 <= self.speed <= MAX_SIDE:
            raise ValueError(f"hold must be within 1..1000000 and speed within 0..{MAX_SIDE}")


class TestPatternCollector:
    """One frame a period, and the label whenever it changes."""

    __test__ = False

    def __init__(self, name: str, period_s: float | None, chosen: Options) -> None:
        self.name, self.period_s = name, period_s or 0.05
        self.metrics = [Metric(name=metric_name(f"{name}/label"), kind="state", description="what the pattern shows")]
        self._options, self._number, self._shown = chosen, 0, ""

    def collect(self, now_us: int) -> Iterator[Frame | Sample]:
        """Yield the next frame, and its label when it is another one."""
        chosen, number = self._options, self._number
        label = LABELS[number // chosen.hold % len(LABELS)]
        if label != self._shown:
            self._shown = label
            yield Sample(metric=f"{self.name}/label", t_us=now_us, value=label)
        channels = 1 if chosen.color == "gray" else 3
        yield Frame(
            source=self.name, number=number, t_us=now_us, shape=(chosen.height, chosen.width, channels),
            data=draw(label, chosen, number * chosen.speed, channels), color=chosen.color,
        )  # fmt: skip
        self._number += 1

    def close(self) -> None:
        """Do nothing: it has no resources."""


def draw(label: str, chosen: Options, moved: int, channels: int) -> bytes:
    """The pixels, row by row: a bright shape on dark ground, half as large as the frame, that moves to the right."""
    side = min(chosen.width, chosen.height) // 2
    top, left = (chosen.height - side) // 2, moved % chosen.width
    empty = bytes([DARK]) * chosen.width
    rows = []
    for y in range(chosen.height):
        start, length = _span(label, y - top, side)
        row = empty[: chosen.width - length] + bytes([BRIGHT]) * length if length else empty
        turn = (chosen.width - length - left - start) % chosen.width if length else 0
        rows.append(row[turn:] + row[:turn])
    gray = b"".join(rows)
    return gray if channels == 1 else b"".join(bytes([value]) * channels for value in gray)


def _span(label: str, y: int, side: int) -> tuple[int, int]:
    """(first pixel, number of pixels) of the shape in its row `y`."""
    if label == "none" or not 0 <= y < side:
        return 0, 0
    if label == "square":
        return 0, side
    if label == "stripes":
        return (0, side) if y % 4 < 2 else (0, 0)
    half = math.sqrt(max(0.0, (side / 2) ** 2 - (y + 0.5 - side / 2) ** 2))
    return round(side / 2 - half), round(2 * half)


def open_collector(table: CollectorTable) -> TestPatternCollector:
    """Entry point `test_pattern`."""
    chosen = options(Options, table)
    try:
        return TestPatternCollector(table.name, table.period_s, chosen)
    except ValueError as error:
        raise ConfigError(f"collector '{table.name}'.name", str(error), "It begins the names of its metrics") from error
