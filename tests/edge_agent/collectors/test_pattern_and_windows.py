"""Collectors `test_pattern` and `metric_window`, and the parts of the sampler and the clocks that serve sources."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examiners.collectors import NOW_US, Site, examine_collector

from edge_agent.collectors import Frame, Window, images, metric_window, test_pattern
from edge_agent.collectors.sources.core.capture_clock import CaptureClock, Pacer
from edge_agent.config import CollectorTable
from edge_agent.pipeline.sampler import Sampler
from edge_agent.runtime.event_loop import EventLoop
from shared.errors import ConfigError
from shared.protocol.messages import Sample

SECOND = 1_000_000


def table(kind: str, **options: Any) -> CollectorTable:
    return CollectorTable(kind=kind, name=f"the-{kind}", period_s=None, options=options)


# -- test pattern --------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", ["gray", "rgb", "bgr"])
def test_the_pattern_passes_the_examiner(color: str) -> None:
    examine_collector(
        Site(open_collector=test_pattern.open_collector, table=table("test_pattern", color=color, width=20, height=12))
    )


def test_the_label_says_what_is_shown_and_the_shape_moves() -> None:
    collector = test_pattern.open_collector(table("test_pattern", hold=2, width=32, height=32))
    readings = [one for n in range(8) for one in collector.collect(NOW_US + n)]
    assert [one.value for one in readings if isinstance(one, Sample)] == list(test_pattern.LABELS)
    pixels = [np.frombuffer(one.data, np.uint8).reshape(32, 32) for one in readings if isinstance(one, Frame)]
    bright = [int((one == test_pattern.BRIGHT).sum()) for one in pixels]
    assert bright[:4] == [0, 0, 256, 256]
    assert 180 < bright[4] < 220, "a disc of the same diameter"
    assert bright[6] == 128, "stripes"
    assert (np.roll(pixels[2], test_pattern.Options().speed, axis=1) == pixels[3]).all()


# -- windows -------------------------------------------------------------------------------------------


def window_collector(**options: Any) -> metric_window.MetricWindowCollector:
    return metric_window.open_collector(table("metric_window", **({"metrics": ["a", "b"], "samples": 3} | options)))


def run(collector: Any, rows: list[tuple[float | None, float | None]], start_s: int = 0) -> list[Window]:
    """One reading a second with these values before it; None: no sample."""
    found = []
    for second, row in enumerate(rows, start_s):
        now = NOW_US + second * SECOND
        for name, value in zip("ab", row, strict=True):
            if value is not None:
                collector.observe(Sample(metric=name, t_us=now, value=value))
        found += collector.collect(now)
    return found


def values(window: Window) -> list[float]:
    return list(struct.unpack(f"={window.shape[0] * window.shape[1]}f", window.data))


def test_windows_pass_the_examiner() -> None:
    opened: list[Any] = []

    def open_collector(chosen: CollectorTable) -> Any:
        opened.append(metric_window.open_collector(chosen))
        return opened[-1]

    examine_collector(
        Site(
            open_collector=open_collector, table=table("metric_window", metrics=["a"], samples=2),
            happens=lambda: opened[0].observe(Sample(metric="a", t_us=NOW_US, value=1.0)), kinds=(Window,),
        )
    )  # fmt: skip


def test_a_window_slides_by_every_rows() -> None:
    found = run(window_collector(every=2), [(n, 10.0 * n) for n in range(7)])
    assert [values(one) for one in found] == [[0, 0, 1, 10, 2, 20], [2, 20, 3, 30, 4, 40], [4, 40, 5, 50, 6, 60]]
    assert [one.number for one in found] == [0, 1, 2]
    assert (found[0].shape, found[0].names, found[0].t_us) == ((3, 2), ("a", "b"), NOW_US + 2 * SECOND)


@pytest.mark.parametrize(("missing", "windows"), [("skip", 1), ("nan", 5), ("hold", 5)])
def test_a_missing_value_follows_the_policy(missing: str, windows: int) -> None:
    rows = [(1.0, 2.0), (1.0, 2.0), (1.0, 2.0), (1.0, None), (1.0, None), (1.0, 4.0), (1.0, 4.0)]
    found = run(window_collector(missing=missing, max_age_s=0.5), [*rows])
    assert len(found) == windows
    if missing == "nan":
        assert math.isnan(values(found[-1])[1])
    if missing == "hold":
        assert values(found[-1]) == [1, 2, 1, 4, 1, 4]


def test_no_window_before_each_metric_was_seen_and_none_across_a_set_back_clock() -> None:
    collector = window_collector(missing="hold")
    assert run(collector, [(1.0, None)] * 4) == []
    assert len(run(collector, [(1.0, 2.0)] * 3, 4)) == 1
    assert run(collector, [(1.0, 2.0)] * 2, -60) == []


@pytest.mark.parametrize(("missing", "windows"), [("skip", 1), ("hold", 2), ("nan", 2)])
def test_rows_that_a_stalled_agent_left_out_are_missing(missing: str, windows: int) -> None:
    collector = window_collector(missing=missing)
    found = run(collector, [(1.0, 1.0)] * 3)
    found += run(collector, [(2.0, 2.0)], 4)
    assert len(found) == windows
    if missing == "hold":
        assert values(found[1]) == [1, 1, 1, 1, 2, 2]


def test_text_bad_and_infinite_values_are_none() -> None:
    collector = window_collector(metrics=["a"], samples=1)
    collector.observe(Sample(metric="a", t_us=NOW_US, value="on"))
    collector.observe(Sample(metric="a", t_us=NOW_US, value=None, quality="bad"))
    assert list(collector.collect(NOW_US)) == []


@pytest.mark.parametrize(
    "options",
    [{"metrics": []}, {"metrics": ["a", "a"]}, {"metrics": ["A b"]}, {"samples": 0}, {"step_s": 0}, {"missing": "no"}],
)
def test_wrong_options_of_a_window_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        window_collector(**options)


def test_the_sampler_passes_samples_to_windows_and_windows_to_models() -> None:
    got: list[Any] = []
    tables = [
        table("host", temperatures=False), table("metric_window", metrics=["memory.used", "cpu.load1"], samples=1),
    ]  # fmt: skip
    sampler = Sampler(EventLoop(), tables, lambda *_: None, {"the-metric_window": [got.append]}, lambda _name: None)
    for collector in sampler._collectors:
        sampler._collect(collector)
    (window,) = got
    assert window.names == ("memory.used", "cpu.load1")
    assert 0 < values(window)[0] <= 100
    sampler.close()


# -- images with channels ------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "color"), [((), "gray"), ((1,), "gray"), ((3,), "bgr")])
def test_files_of_images_may_have_channels(tmp_path: Path, channels: tuple[int, ...], color: str) -> None:
    np.save(
        tmp_path / "f.npy", np.arange(2 * 4 * 5 * (channels or (1,))[0], dtype=np.uint8).reshape(2, 4, 5, *channels)
    )
    collector = images.open_collector(table("images", path=str(tmp_path / "f.npy"), color="bgr"))
    (frame,) = collector.collect(NOW_US)
    assert (frame.shape, frame.color) == ((4, 5, (channels or (1,))[0]), color)
    (frame,) = collector.collect(NOW_US)
    assert frame.data[0] == 4 * 5 * (channels or (1,))[0]


# -- clocks --------------------------------------------------------------------------------------------


def test_a_camera_whose_clock_is_slow_is_followed() -> None:
    clock = CaptureClock()
    for second in range(40_000):
        arrived = NOW_US + second * SECOND
        t_us = clock.t_us(round(second * SECOND * 0.9999), arrived)
    assert abs(arrived - t_us) < 1_000


def test_the_jitter_of_the_network_is_removed_from_the_time_of_capture() -> None:
    clock = CaptureClock()
    delays = [40, 10, 90, 25, 60]
    times = [clock.t_us(n * 1000, NOW_US + n * 1000 + delay) for n, delay in enumerate(delays)]
    assert [t - NOW_US for t in times] == pytest.approx([40, 1010, 2010, 3010, 4010], abs=1)
    assert clock.t_us(0, NOW_US + 10 * SECOND) == NOW_US + 10 * SECOND, "the stream began again"
    assert clock.t_us(None, 7) == 7


@pytest.mark.parametrize(
    ("fps", "every", "source_fps", "wanted"), [(10, 1, 25, 10), (25, 1, 25, 25), (100, 3, 30, 10), (0, 1, 500, 500)]
)
def test_the_pacer_keeps_the_rate(fps: float, every: int, source_fps: int, wanted: int) -> None:
    pacer = Pacer(fps, every)
    chosen = sum(pacer.wanted(NOW_US + n * SECOND // source_fps) for n in range(source_fps * 4))
    assert chosen == pytest.approx(4 * wanted, abs=2)
    assert pacer.skipped == source_fps * 4 - chosen
    assert any(pacer.wanted(NOW_US - 3600 * SECOND + n * SECOND // source_fps) for n in range(every)), (
        "a clock set back"
    )
