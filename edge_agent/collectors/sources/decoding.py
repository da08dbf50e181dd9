"""Decodes images and streams with PyAV; crop, resize and colour are one pass. Only for source processes.

The only module that imports PyAV; its errors become NotReady (stream) or ValueError (one image).
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter

from edge_agent.clock import now_us
from edge_agent.collectors.sources.core.capture_clock import Pacer
from edge_agent.collectors.sources.options import ImageOptions, StreamOptions
from edge_agent.collectors.sources.protocol import MAX_FRAME_BYTES, Captured
from shared.errors import NotReady

FORMATS = {"gray": "gray", "rgb": "rgb24", "bgr": "bgr24"}
MAX_BROKEN = 50
"""A stream with so many broken packets in a row is opened anew."""
av.logging.set_level(None)  # a broken stream would fill the log, and a message may hold a login


class Converter:
    """Crops, resizes and converts frames; rebuilt when the source changes its size or format."""

    def __init__(self, options: ImageOptions) -> None:
        self._options = options
        self._of: tuple[int, int, str] | None = None
        self._graph: Any = None

    def captured(self, frame: Any, t_us: int, token: str = "", skipped: int = 0) -> Captured:
        """The image as the models get it; raises ValueError if it is too large or cannot be converted."""
        kind = (frame.width, frame.height, frame.format.name)
        try:
            if kind != self._of:
                self._build(frame)
                self._of = kind
            self._graph.push(frame)
            done = self._graph.pull()
        except (av.error.FFmpegError, ValueError) as error:
            self._of = None
            raise ValueError(f"{kind[0]}x{kind[1]} {kind[2]} cannot be converted ({error})") from error
        color = self._options.color
        shape = (done.height, done.width, 1 if color == "gray" else 3)
        return Captured(t_us=t_us, shape=shape, data=_rows(done, shape), color=color, token=token, skipped=skipped)

    def _build(self, frame: Any) -> None:
        x, y, w, h = self._options.roi
        left, top = int(x * frame.width), int(y * frame.height)
        wide, high = max(1, round(w * frame.width)), max(1, round(h * frame.height))
        width, height = self._options.width or wide, self._options.height or high
        if width * height * 3 > MAX_FRAME_BYTES or frame.width * frame.height * 3 > 4 * MAX_FRAME_BYTES:
            raise ValueError(f"images of {frame.width}x{frame.height} are too large")
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        crop = graph.add("crop", f"{wide}:{high}:{left}:{top}:exact=1")
        scale = graph.add("scale", f"{width}:{height}:flags=area" if width < wide else f"{width}:{height}")
        graph.link_nodes(
            source, crop, scale, graph.add("format", FORMATS[self._options.color]), graph.add("buffersink")
        )
        graph.configure()
        self._graph = graph


def _rows(frame: Any, shape: tuple[int, int, int]) -> bytes:
    """The pixels of a packed frame without the padding of its rows."""
    plane, row = frame.planes[0], shape[1] * shape[2]
    whole = memoryview(plane)
    if plane.line_size == row:
        return bytes(whole[: row * shape[0]])
    return b"".join(whole[at : at + row] for at in range(0, plane.line_size * shape[0], plane.line_size))


def decode_image(source: Path | bytes, converter: Converter, t_us: int, token: str) -> Captured:
    """One image file or its bytes, such as JPEG, PNG, WebP, BMP; raises ValueError."""
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r") as container:
            frame = next(container.decode(video=0))
    except (av.error.FFmpegError, OSError, IndexError, StopIteration, ValueError) as error:
        raise ValueError(f"is no image that can be decoded ({_text(error)})") from error
    return converter.captured(frame, t_us, token)


def _text(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_stream(url: str, label: str, form: str | None, options: dict[str, str], open_s: float, read_s: float) -> Any:
    """Open a device, file or URL; `label` names it without secrets. Raises NotReady."""
    try:
        container = av.open(url, format=form, options=options, timeout=(open_s, read_s))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise NotReady(f"{label} cannot be opened ({_text(error)})") from error
    if not container.streams.video:
        container.close()
        raise NotReady(f"{label} holds no video")
    return container


def stream_images(
    container: Any,
    label: str,
    options: StreamOptions,
    stamp: Callable[[int | None], int],
    *,
    limited: bool = True,
) -> Iterator[Captured | None]:
    """The images of an open container. `stamp` turns the stream's time (us, or None) into UTC, and may wait.

    `max_fps` holds if `limited`. Broken packets are left out. Raises NotReady when the stream is lost.
    """
    stream, converter = container.streams.video[0], Converter(options)
    pacer = Pacer(options.max_fps if limited else 0, options.every)
    stream.codec_context.thread_count = options.threads
    if options.keyframes:
        stream.codec_context.skip_frame = "NONKEY"
    for frame in _frames(container, stream, label):
        t_us = stamp(None if frame.time is None else int(frame.time * 1e6))
        if not pacer.wanted(t_us):
            yield None
            continue
        try:
            yield converter.captured(frame, t_us, skipped=pacer.skipped)
        except ValueError as error:
            raise NotReady(f"{label}: {error}") from error


def _frames(container: Any, stream: Any, label: str) -> Iterator[Any]:
    broken = 0
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                broken += 1
                if broken >= MAX_BROKEN:
                    raise NotReady(f"{label}: {broken} broken packets in a row ({_text(error)})") from error
                continue
            broken = 0 if frames else broken
            yield from frames
    except (av.error.FFmpegError, OSError) as error:
        raise NotReady(f"{label} was lost ({_text(error)})") from error


class PlayClock:
    """Plays a file at its own speed from now on: waits until an image is due and returns its time."""

    def __init__(self) -> None:
        self._offset_us: int | None = None

    def __call__(self, stream_us: int | None) -> int:
        now = now_us()
        if stream_us is None:
            return now
        if self._offset_us is None or not -1_000_000 < stream_us + self._offset_us - now < 60_000_000:
            self._offset_us = now - stream_us
        due = stream_us + self._offset_us
        time.sleep(max(0, due - now) / 1e6)
        return due
