"""The LiteRT runner; its wheel is an extra."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examiners.runners import examine_runner
from simulators.onnx_models import write_bundle

from edge_agent.models import RunnerOptions
from edge_agent.models.litert import open_runner
from shared.errors import ModelError
from shared.models.bundle import load

KEY = "tflite-int8"


def bundle(folder: Path, content: bytes, **changes: Any) -> Path:
    return write_bundle(folder / "b", content, runners=["litert"], key=KEY, format="tflite", **changes)


def test_without_the_wheel_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match=r"pip install 'tidegate\[litert\]'"):
        open_runner(load(bundle(tmp_path, b"x")), KEY, RunnerOptions())


def test_litert_passes_the_examiner(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from simulators.tflite_models import brightness

    examine_runner(open_runner, bundle(tmp_path, brightness(), outputs=[{"name": "p", "shape": [2]}]), KEY)


def test_names_that_differ_are_matched_by_their_order_and_quantized_outputs_are_numbers(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from simulators.tflite_models import brightness

    inputs = [{"name": "pixels", "shape": [8, 8, 1], "layout": "NHWC"}]
    runner = open_runner(load(bundle(tmp_path, brightness(quantized=True), inputs=inputs)), KEY, RunnerOptions())
    for value in (0, 51, 255):
        found = runner.run({"pixels": np.full((1, 8, 8, 1), value, np.float32)})["probabilities"]
        assert found.dtype == np.float32
        assert found[0].tolist() == pytest.approx([1 - value / 255, value / 255], abs=0.01)


def test_a_type_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from simulators.tflite_models import brightness

    inputs = [{"name": "image", "shape": [8, 8, 1], "dtype": "float32", "layout": "NHWC"}]
    with pytest.raises(ModelError, match="uint8 in the file and float32 in the manifest"):
        open_runner(load(bundle(tmp_path, brightness(), inputs=inputs)), KEY, RunnerOptions())
