"""Measures what a camera costs: a 720p H.264 file played as a camera, at most 20 frames a second.

    python -m benchmarks.sources [--seconds 10] [--json FILE]

The baseline is PyAV alone in this process: decode a frame and convert it to three channels. The other rows are the
collector `video` with its source process. Processor time is in percent of one core.
"""

from __future__ import annotations

import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil

from benchmarks.report import Row, arguments, publish
from edge_agent.clock import now_us
from edge_agent.collectors import Frame, video
from edge_agent.config import CollectorTable

WIDTH, HEIGHT, FPS, FRAMES = 1280, 720, 25, 125
SIZES = {"224x224 rgb": (224, 224), "640x360 rgb": (640, 360), "1280x720 rgb": (0, 0)}


def make_video(path: Path, seed: int) -> None:
    """Moving noise with a bright square; a key frame every two seconds."""
    ground = (np.random.default_rng(seed).random((HEIGHT, WIDTH, 3)) * 60).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "g": str(2 * FPS)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            picture = np.roll(ground, 4 * number, axis=1)
            picture[200:400, 5 * number : 5 * number + 200] = (200, 50, 3 * number % 256)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def bare(path: Path) -> float:
    """Milliseconds of processor time for one frame: decoding and conversion alone."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        began, count = time.process_time(), 0
        for frame in container.decode(video=0):
            bytes(frame.reformat(format="rgb24").planes[0])
            count += 1
        return (time.process_time() - began) * 1000 / count


def used_s(process: psutil.Process) -> float:
    """Processor time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measured(path: Path, name: str, size: tuple[int, int], seconds: float) -> list[Row]:
    """The collector with frames of one size."""
    options: dict[str, Any] = {"path": str(path), "loop": True, "max_fps": 20, "width": size[0], "height": size[1]}
    collector = video.open_collector(CollectorTable(kind="video", name="camera", period_s=None, options=options))
    try:
        while not any(isinstance(one, Frame) for one in collector.collect(now_us())):
            time.sleep(0.02)
        agent, source = psutil.Process(), psutil.Process(collector.source.pid)
        before, began, frames = (used_s(agent), used_s(source)), time.monotonic(), 0
        while (took := time.monotonic() - began) < seconds:
            frames += sum(isinstance(one, Frame) for one in collector.collect(now_us()))
            time.sleep(collector.period_s or 0.05)
        figures = {
            "frames": (frames / took, "1/s"), "source process": (100 * (used_s(source) - before[1]) / took, "%"),
            "agent": (100 * (used_s(agent) - before[0]) / took, "%"),
            "source RSS": (source.memory_info().rss / 1e6, "MB"),
            "dropped": (100 * collector.source.counts.dropped / max(1, collector.source.counts.received), "%"),
        }  # fmt: skip
    finally:
        collector.close()
    return [Row(f"{WIDTH}x{HEIGHT} H.264", name, metric, value, unit) for metric, (value, unit) in figures.items()]


def main() -> None:
    """Entry point."""
    chosen = arguments(__doc__ or "", seconds=10.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "camera.mkv"
        make_video(path, chosen.seed)
        rows = [Row(f"{WIDTH}x{HEIGHT} H.264", "PyAV alone", "a frame", bare(path), "ms")]
        for name, size in SIZES.items():
            rows += measured(path, name, size, chosen.seconds)
    publish("sources", chosen.seed, rows, chosen.json)


if __name__ == "__main__":
    main()
