"""Collector `video`: the frames of a video file, at its own speed or one after another, decoded in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.collectors.sources.collector import BackgroundCollector
from edge_agent.collectors.sources.options import StreamOptions, absolute, needs_decoder
from edge_agent.collectors.sources.process import BackgroundSource
from edge_agent.collectors.sources.protocol import Captured
from edge_agent.config import CollectorTable, options
from shared.errors import NotReady

PRODUCER = "edge_agent.collectors.video:produce"


class Options(StreamOptions, frozen=True, forbid_unknown_fields=True):
    """`path` of the file. `realtime`: at its own speed, frames that are not taken in time are dropped; else each frame
    waits for its turn. `loop`: begin again at the end.
    """

    path: str = msgspec.field(default="")
    realtime: bool = True
    loop: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ValueError("path must be set")


class VideoCollector(BackgroundCollector):
    """Frames of one file."""

    def __init__(self, table: CollectorTable, chosen: Options) -> None:
        source = BackgroundSource(PRODUCER, lambda: msgspec.to_builtins(chosen), "newest" if chosen.realtime else "all")
        super().__init__(table, source, table.period_s or min(1.0, max(0.01, 0.5 / chosen.max_fps)))
        self._options = chosen

    def warnings(self) -> list[str]:
        """Warnings for `check`."""
        there = Path(self._options.path).is_file()
        return [] if there else [f"{self._options.path} is not there, and is waited for"]


def produce(given: dict[str, Any]) -> Iterator[Captured | None]:
    """The images of the file, in the source process."""
    from edge_agent.clock import now_us  # noqa: PLC0415
    from edge_agent.collectors.sources.decoding import (  # noqa: PLC0415 - PyAV is 30 MB
        PlayClock,
        open_stream,
        stream_images,
    )

    chosen = msgspec.convert(given, Options)
    while True:
        stamp = PlayClock() if chosen.realtime else lambda _stream_us: now_us()
        delivered = False
        with open_stream(chosen.path, chosen.path, None, {}, 10.0, 10.0) as container:
            for image in stream_images(container, chosen.path, chosen, stamp, limited=chosen.realtime):
                delivered = True
                yield image
        if not delivered:
            raise NotReady(f"{chosen.path} holds no image that can be decoded")
        if not chosen.loop:
            return


def open_collector(table: CollectorTable) -> VideoCollector:
    """Entry point `video`."""
    chosen = options(Options, table)
    needs_decoder(table)
    return VideoCollector(table, msgspec.structs.replace(chosen, path=absolute(chosen.path)))
