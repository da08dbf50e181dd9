"""The ONNX runner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examiners.runners import examine_runner
from simulators.model_bundles import DIGITS, edit, with_model
from simulators.onnx_models import brightness, write_bundle

from edge_agent.models import RunnerOptions
from edge_agent.models.onnx import open_runner
from shared.errors import ModelError
from shared.models.bundle import load


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_onnx_passes_the_examiner(tmp_path: Path, batch: int | str) -> None:
    content = brightness(8, channels=3, batch=batch)
    examine_runner(open_runner, write_bundle(tmp_path / "b", content, channels=3), "cpu-int8")


def test_the_bundle_of_the_demo_passes_the_examiner() -> None:
    examine_runner(open_runner, DIGITS, "cpu-int8", RunnerOptions(batch=8))


@pytest.mark.parametrize("content", [b"no model at all", b""], ids=["garbage", "empty"])
def test_bytes_that_are_no_model_are_refused(bundle: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        open_runner(load(with_model(bundle, content)), "cpu-int8", RunnerOptions())


@pytest.mark.parametrize("truncated", [100, 3000])
def test_a_truncated_model_is_refused(bundle: Path, truncated: int) -> None:
    content = (DIGITS / "model.onnx").read_bytes()[:truncated]
    with pytest.raises(ModelError, match="cannot load"):
        open_runner(load(with_model(bundle, content)), "cpu-int8", RunnerOptions())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outputs": [{"name": "nothing", "shape": [10]}]}, "no outputs nothing"),
        ({"inputs": [{"name": "x", "shape": [1, 8, 8], "layout": "NCHW"}]}, "no inputs x"),
    ],
)
def test_a_manifest_that_does_not_fit_its_model_is_refused(bundle: Path, change: dict[str, Any], reason: str) -> None:
    edit(bundle, lambda manifest: manifest.update(change))
    with pytest.raises(ModelError, match=reason):
        open_runner(load(bundle), "cpu-int8", RunnerOptions())


def opened(providers: Sequence[str], **libraries: str) -> Any:
    options = RunnerOptions(providers=tuple(providers), libraries=libraries)
    return open_runner(load(DIGITS), "cpu-int8", options).describe()


def test_the_provider_that_really_runs_is_reported_and_why_the_others_do_not() -> None:
    info = opened(["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"])
    assert info.provider == "CPUExecutionProvider"
    assert info.refused.keys() == {"TensorrtExecutionProvider", "CUDAExecutionProvider"}
    assert "built without it" in info.refused["CUDAExecutionProvider"]
    assert "nodes on CPUExecutionProvider" in info.device


def test_without_the_cpu_in_its_list_a_model_does_not_fall_back_to_it() -> None:
    with pytest.raises(ModelError, match="CUDAExecutionProvider: this ONNX Runtime was built without it"):
        opened(["CUDAExecutionProvider"])


def test_a_plug_in_provider_that_cannot_be_loaded_is_refused_with_its_file(tmp_path: Path) -> None:
    library = tmp_path / "libprovider.so"
    libraries = {"ThirdExecutionProvider": str(library)}
    info = opened(["ThirdExecutionProvider", "CPUExecutionProvider"], **libraries)
    assert f"{library} is not there" in info.refused["ThirdExecutionProvider"]
    library.write_bytes(b"no library")
    info = opened(["ThirdExecutionProvider", "CPUExecutionProvider"], **libraries)
    assert str(library) in info.refused["ThirdExecutionProvider"]
    assert info.provider == "CPUExecutionProvider"


def test_numbers_that_are_none_are_passed_on_to_the_task(tmp_path: Path) -> None:
    runner = open_runner(
        load(write_bundle(tmp_path / "b", brightness(scale=float("nan")))), "cpu-int8", RunnerOptions()
    )
    assert np.isnan(runner.run({"image": np.ones((1, 8, 8, 1), np.uint8)})["probabilities"]).all()
