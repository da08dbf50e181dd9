"""Manifests: what contradicts itself is refused, with the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulators.model_bundles import DIGITS

from shared.errors import ModelError
from shared.models.bundle import load, read_manifest

Change = Callable[[dict[str, Any]], Any]
CHANGES: list[tuple[Change, str]] = [
    (lambda m: m.update(variants={}), "variants is empty"),
    (lambda m: m.update(inputs=[]), "inputs is empty"),
    (lambda m: m.update(name=""), "name is empty"),
    (lambda m: m.update(labels=["a", "b", "a"]), "label 'a' is listed 2 times"),
    (lambda m: m["outputs"].append(m["outputs"][0]), "tensor 'probabilities' is listed 2 times"),
    (lambda m: m["variants"]["cpu-int8"].update(file="other.onnx"), "variant 'cpu-int8' names 'other.onnx'"),
    (lambda m: m["variants"]["cpu-int8"].update(runners=[]), "no runner is named for 'model.onnx'"),
    (lambda m: m["variants"]["cpu-int8"].update(precision="int4"), r"allowed: .*int8"),
    (lambda m: m.update(golden={"inputs": "in.npz", "outputs": "out.npz"}), "golden names 'in.npz'"),
    (lambda m: m["inputs"][0].update(shape=[0, 8, 8]), "a side is 1 or more"),
    (lambda m: m["inputs"][0].update(layout="NCH"), "layout 'NCH'"),
    (lambda m: m["inputs"][0].update(dtype="float64"), "inputs.0..dtype"),
    (lambda m: m["preprocess"].update(std=[0.0]), "std must not be 0"),
    (lambda m: m.update(batch=-1), "batch is -1"),
    (lambda m: m["files"].update({"../x": m["files"]["model.onnx"]}), "leaves the bundle"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[said[:24] for _, said in CHANGES])
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, change: Change, said: str) -> None:
    manifest = json.loads((DIGITS / "manifest.json").read_text())
    change(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=said):
        read_manifest(tmp_path)


def test_a_variant_is_found_by_its_key_or_by_its_runner() -> None:
    manifest = read_manifest(DIGITS)
    assert manifest.variants_for("tensorrt") == ["tensorrt-int8"]
    assert manifest.variants_for("onnx") == ["cpu-int8", "tensorrt-int8"]
    assert manifest.variant_digest("cpu-int8") == f"sha256:{manifest.files['model.onnx'].sha256}"
    with pytest.raises(ModelError, match=r"no variant 'fp8'\. It has: cpu-int8, tensorrt-int8"):
        manifest.variant_digest("fp8")


def test_only_the_file_of_the_wanted_variant_is_read() -> None:
    bundle = load(DIGITS, "cpu-int8")
    assert list(bundle.files) == ["model.onnx"]
    with pytest.raises(ModelError, match=r"'CARD\.md' was not read"):
        bundle.file("CARD.md")
