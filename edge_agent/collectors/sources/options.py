"""Options that all sources of decoded images share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec

from edge_agent.collectors.sources.protocol import MAX_FRAME_BYTES
from edge_agent.config import CollectorTable
from shared.errors import ConfigError
from shared.protocol.messages import Color


class ImageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`width` and `height` of the frames (0: as the source gives), `color` their channels and order, `roi` the part
    of the image that is used as [x, y, width, height] in 0..1.
    """

    width: int = 0
    height: int = 0
    color: Color = "rgb"
    roi: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        x, y, w, h = self.roi
        if not (0 <= x < 1 and 0 <= y < 1 and 0 < w <= 1 - x + 1e-9 and 0 < h <= 1 - y + 1e-9):
            raise ValueError("roi must be [x, y, width, height] within 0..1")
        if not (0 <= self.width <= 8192 and 0 <= self.height <= 8192) or (self.width > 0) != (self.height > 0):
            raise ValueError("width and height must be given together, within 1..8192")
        if self.width * self.height * 3 > MAX_FRAME_BYTES:
            raise ValueError(f"width x height must not exceed {MAX_FRAME_BYTES} bytes")


class StreamOptions(ImageOptions, frozen=True, forbid_unknown_fields=True):
    """Options of moving pictures: at most `max_fps`, each `every`-th image, `keyframes` alone (saves decoding),
    `threads` of the decoder.
    """

    max_fps: float = 10.0
    every: int = 1
    keyframes: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.01 <= self.max_fps <= 240 or not 1 <= self.every <= 100_000 or not 1 <= self.threads <= 64:
            raise ValueError("max_fps must be within 0.01..240, every within 1..100000, threads within 1..64")


def needs_decoder(table: CollectorTable) -> None:
    """Raise ConfigError where PyAV is not installed; it is not imported here, because that costs 30 MB."""
    if importlib.util.find_spec("av") is None:
        place = f"collector '{table.name}' (kind {table.kind})"
        raise ConfigError(place, "PyAV is not installed", "Install the extra `camera`: pip install 'tidegate[camera]'")


def absolute(path: str) -> str:
    """`path` for the source process, which works in another folder; '' stays ''."""
    return str(Path(path).absolute()) if path else ""


def read_secret(path: str, place: str) -> str:
    """The first line of a file with a password; raises ConfigError."""
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            place, f"{path} cannot be read ({error})", "Give a file that the agent's user may read"
        ) from error
