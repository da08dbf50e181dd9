"""The pure parts of models: regions, rates, latencies, selection, waiting for the expert."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edge_agent.collectors import Frame
from edge_agent.models.core.answers import MAX_WAITING, AnswerTable, WaitingInput
from edge_agent.models.core.exclusion import CRASHES, Exclusions
from edge_agent.models.core.latency import LatencyHistogram
from edge_agent.models.core.pixels import cropped, shrunk
from edge_agent.models.core.rate import RateControl
from edge_agent.models.core.selection import attempts
from shared.errors import ModelError
from shared.models.manifest import FileEntry, Manifest, TensorSpec, Variant


def picture(height: int, width: int, channels: int, seed: int = 1) -> tuple[Frame, np.ndarray]:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, channels), dtype=np.uint8)
    color = "gray" if channels == 1 else "rgb"
    return Frame(source="c", number=1, t_us=1, shape=pixels.shape, data=pixels.tobytes(), color=color), pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("region", [(0, 0, 1, 1), (0.25, 0.5, 0.5, 0.25), (0.99, 0.99, 0.5, 0.5), (-0.5, -0.5, 0.6, 1)])
def test_a_region_is_cut_out_as_numpy_would(channels: int, region: tuple[float, float, float, float]) -> None:
    frame, pixels = picture(12, 20, channels)
    x, y, w, h = region
    part = cropped(frame, region)
    assert part is not None
    top, bottom = max(0, int(np.floor(y * 12))), min(12, int(np.ceil((y + h) * 12)))
    left, right = max(0, int(np.floor(x * 20))), min(20, int(np.ceil((x + w) * 20)))
    expected = pixels[top:bottom, left:right]
    assert part.shape == expected.shape
    assert bytes(part.data) == expected.tobytes()


@pytest.mark.parametrize("region", [(1.0, 0, 0.5, 1), (0, 0, 0, 1), (0.5, 0.5, -0.1, 0.1), (float("nan"), 0, 1, 1)])
def test_a_region_without_a_pixel_is_none(region: tuple[float, float, float, float]) -> None:
    assert cropped(picture(12, 20, 1)[0], region) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_frame_is_made_smaller_by_leaving_out_rows_and_columns(channels: int) -> None:
    frame, pixels = picture(31, 17, channels)
    assert shrunk(frame, 31 * 17 * channels) is frame
    small = shrunk(frame, 31 * 17 * channels // 5)
    assert bytes(small.data) == pixels[::3, ::3].tobytes()
    assert small.shape == pixels[::3, ::3].shape


def test_the_rate_is_kept_on_average_and_the_newest_passes() -> None:
    rate: RateControl[int] = RateControl(10.0)
    passed = []
    for n in range(300):  # ten seconds of a camera of 30 frames a second
        now = 100.0 + n / 30
        rate.offer(n)
        if rate.next(now) is not None:
            assert rate.next(now) == n
            rate.passed(now)
            passed.append(n)
    assert 98 <= len(passed) <= 101
    assert rate.dropped == 300 - len(passed) - len(rate.clear())


def test_after_a_pause_no_burst_passes() -> None:
    rate: RateControl[int] = RateControl(10.0, room=50)
    for n in range(50):
        rate.offer(n)
    passed = 0
    while rate.next(1000.0) is not None:
        rate.passed(1000.0)
        passed += 1
    assert passed <= 2


def test_quantiles_are_within_a_tenth() -> None:
    histogram, rng = LatencyHistogram(), random.Random(1)
    values = [rng.lognormvariate(-6, 1) for _ in range(5000)]
    for value in values:
        histogram.add(value)
    for q in (0.5, 0.99):
        assert histogram.quantile(q) == pytest.approx(sorted(values)[int(q * 5000)], rel=0.1)
    histogram.reset()
    assert histogram.quantile(0.5) == 0.0
    histogram.add(1e9)
    histogram.add(0.0)
    assert histogram.quantile(1.0) > 1


def waiting(name: str, until_s: float) -> WaitingInput:
    return WaitingInput(id=name, number=1, t_us=1, result=None, until_s=until_s)


def test_an_escalation_is_answered_or_expires_just_once() -> None:
    table = AnswerTable()
    for n in range(3):
        table.add(waiting(str(n), 10.0 + n))
    assert table.answered("1") is not None
    assert table.answered("1") is None
    assert [one.id for one in table.expired(11.5)] == ["0"]
    assert [one.id for one in table.expired(12.0)] == ["2"]
    assert list(table.expired(1e9)) == []


def test_too_many_that_wait_push_out_the_oldest() -> None:
    table = AnswerTable()
    given_up = [table.add(waiting(str(n), 10.0)) for n in range(MAX_WAITING + 2)]
    assert [one.id for one in given_up if one is not None] == ["0", "1"]
    assert len(table) == MAX_WAITING


def manifest(**runners: list[str]) -> Manifest:
    return Manifest(
        name="m", version="1", task="classification", labels=["a", "b"],
        files={"f.onnx": FileEntry(sha256="0" * 64, size=1)}, inputs=[TensorSpec(name="i", shape=(1,))],
        outputs=[TensorSpec(name="o", shape=(2,))],
        variants={
            key.replace("_", "-"): Variant(file="f.onnx", format="onnx", precision="fp32", runners=names)
            for key, names in runners.items()
        },
    )  # fmt: skip


BOTH = manifest(cpu_int8=["onnx"], tensorrt_int8=["tensorrt", "onnx"])
CPU = ["CPUExecutionProvider"]
NVIDIA = ["TensorrtExecutionProvider", *CPU]


def test_variants_are_tried_in_the_order_of_the_profile_and_runners_in_that_of_the_variant() -> None:
    assert attempts(BOTH, "", ["tensorrt-int8", "cpu-int8"], NVIDIA) == [
        ("tensorrt-int8", "tensorrt"), ("tensorrt-int8", "onnx"), ("cpu-int8", "onnx"),
    ]  # fmt: skip
    assert attempts(BOTH, "", ["cpu-int8", "fp32"], CPU) == [("cpu-int8", "onnx")]
    assert attempts(BOTH, "tensorrt-int8", ["cpu-int8"], CPU) == [("tensorrt-int8", "onnx")]
    assert attempts(BOTH, "", ["fp32"], CPU) == [("cpu-int8", "onnx"), ("tensorrt-int8", "onnx")]
    assert attempts(BOTH, "tensorrt-int8", [], NVIDIA, {"tensorrt": "died"}) == [("tensorrt-int8", "onnx")]


def test_what_is_not_in_the_bundle_or_cannot_run_here_is_an_error_that_lists_what_there_is() -> None:
    with pytest.raises(ModelError, match="cpu-int8, tensorrt-int8"):
        attempts(BOTH, "fp16", [], CPU)
    with pytest.raises(ModelError, match="CPUExecutionProvider"):
        attempts(manifest(trt=["tensorrt"]), "", [], CPU)


def test_of_a_runner_with_providers_the_provider_that_crashes_is_left_out() -> None:
    exclusions = Exclusions({"litert": "not here"})
    for _ in range(CRASHES - 1):
        assert exclusions.died_running("onnx", "CUDAExecutionProvider", "SIGSEGV") == ""
    exclusions.answered()
    for _ in range(CRASHES - 1):
        assert exclusions.died_running("onnx", "CUDAExecutionProvider", "SIGSEGV") == "", "an answer was between"
    assert exclusions.died_running("onnx", "CUDAExecutionProvider", "SIGSEGV") == "CUDAExecutionProvider"
    assert "SIGSEGV" in exclusions.reasons["CUDAExecutionProvider"]
    assert [exclusions.died_running("onnx", "CPUExecutionProvider", "") for _ in range(CRASHES)][-1] == "onnx"
    assert [exclusions.died_running("tensorrt", "TensorRT 10", "") for _ in range(CRASHES)][-1] == "tensorrt"
    exclusions.reset()
    assert exclusions.reasons == {"litert": "not here"}


def test_a_provider_that_is_left_out_is_tried_with_no_runner() -> None:
    skip = {name: "it died" for name in NVIDIA if "TensorRT" in name or "Tensorrt" in name}
    assert attempts(BOTH, "tensorrt-int8", [], NVIDIA, skip) == [("tensorrt-int8", "onnx")]
    with pytest.raises(ModelError, match="not tried again: onnx: it died"):
        attempts(BOTH, "cpu-int8", [], CPU, {"onnx": "it died"})
