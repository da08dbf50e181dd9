"""Bundles from TensorFlow Lite files; LiteRT is an extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloud_hub.models.build import build
from cloud_hub.models.check import check_bundle
from cloud_hub.models.errors import BuildError
from cloud_hub.models.request import BuildRequest
from shared.models.bundle import load

pytest.importorskip("ai_edge_litert")
LABELS = ["dark", "bright"]


def request(folder: Path, content: bytes) -> BuildRequest:
    (folder / "m.tflite").write_bytes(content)
    pixels = np.array([[[[level]] * 8] * 8 for level in range(10, 250, 6)], np.uint8).reshape(-1, 8, 8, 1)
    truth = np.array([LABELS[int(frame.mean() > 127.5)] for frame in pixels])
    np.savez(folder / "frames.npz", inputs=pixels, labels=truth)
    return BuildRequest(
        onnx=folder / "m.tflite", task="classification", calibration=folder / "frames.npz", labels=LABELS,
        out=folder / "out", scale=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("quantized", [False, True])
def test_a_file_becomes_a_bundle_with_one_variant(tmp_path: Path, quantized: bool) -> None:
    from simulators.tflite_models import brightness

    lines: list[str] = []
    report = build(request(tmp_path, brightness(quantized=quantized)), lines.append)
    (variant,) = report.manifest.variants.values()
    assert (variant.format, variant.runners) == ("tflite", ["litert"])
    assert report.evaluations[0].accuracy == 1.0
    assert report.manifest.batch == 1
    bundle = load(tmp_path / "out")
    assert [(one.problem, one.skipped, one.agreement) for one in check_bundle(bundle)] == [("", "", 1.0)]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="LiteRT cannot load it"):
        build(request(tmp_path, b"TFL3 but no more"))
