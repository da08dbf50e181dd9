"""Collector `camera`: a V4L2 device, or a stream by RTSP or HTTP (MJPEG), decoded in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from edge_agent.collectors.sources.collector import BackgroundCollector
from edge_agent.collectors.sources.core.capture_clock import CaptureClock
from edge_agent.collectors.sources.options import StreamOptions, absolute, needs_decoder, read_secret
from edge_agent.collectors.sources.process import BackgroundSource
from edge_agent.collectors.sources.protocol import Captured
from edge_agent.config import CollectorTable, options
from shared.errors import ConfigError, NotReady

SCHEMES = {"rtsp", "rtsps", "http", "https"}
PRODUCER = "edge_agent.collectors.camera:produce"


class Options(StreamOptions, frozen=True, forbid_unknown_fields=True):
    """Either `device` or `url`. `input_format`, `capture_size` and `capture_fps` are set at a V4L2 device. `user` and
    `password_file` are for a URL. A stream without data for `read_s` is opened again.
    """

    device: str = ""
    url: str = ""
    input_format: str = ""
    capture_size: str = ""
    capture_fps: float = 0.0
    user: str = ""
    password_file: str = ""
    transport: Literal["tcp", "udp"] = "tcp"
    open_s: float = 10.0
    read_s: float = 5.0


class CameraCollector(BackgroundCollector):
    """Frames of one camera."""

    def __init__(self, table: CollectorTable, chosen: Options) -> None:
        source = BackgroundSource(
            PRODUCER, lambda: msgspec.to_builtins(chosen), stall_s=chosen.open_s + chosen.read_s + 5
        )
        super().__init__(table, source, table.period_s or min(1.0, max(0.01, 0.5 / chosen.max_fps)))
        self._options = chosen

    def warnings(self) -> list[str]:
        """Warnings for `check`."""
        if self._options.url.startswith(("rtsp:", "http:")) and self._options.password_file:
            return [f"the password travels unencrypted to {label(self._options)}. Use rtsps or https"]
        return []


def label(chosen: Options) -> str:
    """What is opened, without a query, which may hold secrets."""
    parts = urlsplit(chosen.url)
    return chosen.device or urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def produce(given: dict[str, Any]) -> Iterator[Captured | None]:
    """The images of the camera, in the source process."""
    from edge_agent.clock import now_us  # noqa: PLC0415
    from edge_agent.collectors.sources.decoding import open_stream, stream_images  # noqa: PLC0415 - PyAV is 30 MB

    chosen = msgspec.convert(given, Options)
    container = open_stream(
        chosen.device or _full_url(chosen), label(chosen), "v4l2" if chosen.device else None,
        _settings(chosen), chosen.open_s, chosen.read_s,
    )  # fmt: skip
    clock = CaptureClock()
    with container:
        yield from stream_images(container, label(chosen), chosen, lambda stream_us: clock.t_us(stream_us, now_us()))
    raise NotReady(f"{label(chosen)} has ended")


def _full_url(chosen: Options) -> str:
    if not chosen.user:
        return chosen.url
    password = read_secret(chosen.password_file, "password_file") if chosen.password_file else ""
    parts = urlsplit(chosen.url)
    login = quote(chosen.user, safe="") + (f":{quote(password, safe='')}" if password else "")
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))


def _settings(chosen: Options) -> dict[str, str]:
    """Options of libavformat; unknown ones are ignored by the demuxer that is chosen."""
    if chosen.device:
        found = {"input_format": chosen.input_format, "video_size": chosen.capture_size}
        found["framerate"] = f"{chosen.capture_fps:g}" if chosen.capture_fps else ""
        return {key: value for key, value in found.items() if value}
    return {"rtsp_transport": chosen.transport, "fflags": "nobuffer", "flags": "low_delay"}


def open_collector(table: CollectorTable) -> CameraCollector:
    """Entry point `camera`."""
    chosen: Options = options(Options, table)
    place = f"collector '{table.name}'"
    if bool(chosen.device) == bool(chosen.url):
        raise ConfigError(place, "wants either `device` or `url`", "Set just one of them")
    parts = urlsplit(chosen.url)
    if chosen.url and (parts.scheme not in SCHEMES or not parts.hostname):
        raise ConfigError(
            f"{place}.url", f"'{label(chosen)}' is no camera's address", "Write rtsp://HOST/PATH or http://"
        )
    if "@" in parts.netloc:
        raise ConfigError(f"{place}.url", "holds a login", "Set `user` and `password_file` in place of it")
    if not 0.1 <= chosen.open_s <= 120 or not 0.1 <= chosen.read_s <= 120:
        raise ConfigError(place, "open_s and read_s must be within 0.1..120", "Correct them")
    needs_decoder(table)
    return CameraCollector(table, msgspec.structs.replace(chosen, password_file=absolute(chosen.password_file)))
