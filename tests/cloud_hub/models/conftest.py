"""One bundle of each task, built once for all tests of this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulators import trained_models as models
from simulators.trained_models import DIGITS

from cloud_hub.models.build import BuildReport, build
from cloud_hub.models.request import BuildRequest


def recipe(name: str, folder: Path) -> dict[str, Any]:
    """What to build for `name`: model, calibration data and settings."""
    windows, squares = models.waves(160, broken=20), folder / "squares.npz"
    np.savez(squares, inputs=models.squares(80))
    np.savez(folder / "waves.npz", inputs=windows, labels=np.array(["anomaly"] * 20 + ["normal"] * 140))
    np.savez(folder / "lives.npz", inputs=windows, targets=10 * windows[:, :, 0].mean(axis=1) + windows[:, -1, 1])
    recipes: dict[str, Callable[[], dict[str, Any]]] = {
        "classification": lambda: {
            "onnx": models.digits_classifier(), "calibration": models.digits_folder(folder / "pictures"),
            "labels": DIGITS,
        },
        "detection": lambda: {"onnx": models.detector(), "calibration": squares, "labels": ["bright", "red"]},
        "ssd": lambda: {
            "task": "detection", "onnx": models.detector(head="ssd"), "calibration": squares,
            "labels": ["bright", "red"], "options": {"box_format": "cxcywh", "box_units": "pixels"},
        },
        "segmentation": lambda: {
            "onnx": models.segmenter(), "calibration": squares, "labels": ["background", "bright", "red"],
            "options": {"activation": "softmax"},
        },
        "anomaly": lambda: {
            "onnx": models.autoencoder(), "calibration": folder / "waves.npz", "labels": ["normal", "anomaly"],
            "options": {"score": "reconstruction"},
        },
        "regression": lambda: {
            "onnx": models.regressor(), "calibration": folder / "lives.npz", "options": {"low": -3.0, "high": 3.0},
        },
        "tensors": lambda: {"onnx": models.regressor(), "calibration": folder / "lives.npz", "tolerance": 0.5},
    }  # fmt: skip
    made = recipes[name]()
    onnx = models.saved(made.pop("onnx"), folder / "model.onnx")
    return {"task": name, "onnx": onnx, "out": folder / "bundle"} | made


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, BuildReport]]:
    """(folder, report) of the bundle of a task."""

    @cache
    def make(name: str) -> tuple[Path, BuildReport]:
        wanted = recipe(name, tmp_path_factory.mktemp(name))
        return wanted["out"], build(BuildRequest(**wanted))

    return make
