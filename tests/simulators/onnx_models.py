"""Small ONNX models and bundles of them, made on the spot, and runner plug-ins that misbehave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LABELS = ["dark", "bright"]


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Sequence[Any] = ()) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _info(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def brightness(side: int = 8, channels: int = 1, batch: int | str = "n", layers: int = 0, scale: float = 1.0) -> bytes:
    """uint8 [n, side, side, channels] -> probabilities of LABELS, from the mean; `layers` convolutions cost time."""
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)]
    weights, last = [], "x"
    if layers:
        nodes.append(helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]))
        last, width = "t", channels
        rng = np.random.default_rng(1)
        for layer in range(layers):
            kernel = (rng.random((16, width, 3, 3), np.float32) - 0.5) / (width * 9)
            weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
            stride = 2 if layer == 0 else 1
            node = helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1] * 4, strides=[stride] * 2)
            nodes.append(node)
            last, width = f"c{layer}", 16
    nodes += [
        helper.make_node("ReduceMean", [last], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "k"], ["b"]),
        helper.make_node("Unsqueeze", ["b", "one"], ["column"]),
        helper.make_node("Sub", ["unit", "column"], ["dark"]),
        helper.make_node("Concat", ["dark", "column"], ["probabilities"], axis=1),
    ]
    weights += [
        numpy_helper.from_array(np.float32(scale / 255), "k"), numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.float32(1), "unit"),
    ]  # fmt: skip
    inputs = [_info("image", (batch, side, side, channels), TensorProto.UINT8)]
    return _model(nodes, inputs, [_info("probabilities", (batch, 2))], weights)


def hanging(side: int = 8) -> bytes:
    """As `brightness`, but a bright frame keeps it busy for ever (almost): a loop as long as the mean says."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Sin", ["v"], ["w"]),
        ],
        "body", [_info("i", (), TensorProto.INT64), _info("going", (), TensorProto.BOOL), _info("v", ())],
        [_info("still", (), TensorProto.BOOL), _info("w", ())],
    )  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "million"], ["turns"]),
        helper.make_node("Cast", ["turns"], ["count"], to=TensorProto.INT64),
        helper.make_node("Loop", ["count", "yes", "zero"], ["v1"], body=body),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "k"], ["b0"]),
        helper.make_node("Mul", ["v1", "zero"], ["nothing"]),
        helper.make_node("Add", ["b0", "nothing"], ["b"]),
        helper.make_node("Unsqueeze", ["b", "one"], ["column"]),
        helper.make_node("Sub", ["unit", "column"], ["dark"]),
        helper.make_node("Concat", ["dark", "column"], ["probabilities"], axis=1),
    ]
    weights = [
        numpy_helper.from_array(np.float32(1e6), "million"), numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.float32(0), "zero"), numpy_helper.from_array(np.float32(1 / 255), "k"),
        numpy_helper.from_array(np.array([1]), "one"), numpy_helper.from_array(np.float32(1), "unit"),
    ]  # fmt: skip
    return _model(
        nodes, [_info("image", ("n", side, side, 1), TensorProto.UINT8)], [_info("probabilities", ("n", 2))], weights
    )


def two_inputs() -> bytes:
    """series [n, 4, 2] and static [n, 1] -> total [n, 1]: the sum of the series and 100 times static."""
    nodes = [
        helper.make_node("ReduceSum", ["series", "axes"], ["sum"], keepdims=0),
        helper.make_node("Unsqueeze", ["sum", "one"], ["column"]),
        helper.make_node("Mul", ["static", "hundred"], ["scaled"]),
        helper.make_node("Add", ["column", "scaled"], ["total"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.float32(100), "hundred"),
    ]  # fmt: skip
    return _model(nodes, [_info("series", ("n", 4, 2)), _info("static", ("n", 1))], [_info("total", ("n", 1))], weights)


def write_bundle(
    folder: Path, content: bytes, side: int = 8, channels: int = 1, runners: Sequence[str] = ("onnx",), **changes: Any
) -> Path:
    """A bundle of `content` in `folder`, a classifier of uint8 frames."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "model.tflite" if changes.get("format") == "tflite" else "model.onnx"
    (folder / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    variant = {
        "file": name, "format": changes.pop("format", "onnx"), "precision": changes.pop("precision", "fp32"),
        "runners": list(runners),
    }  # fmt: skip
    manifest = {
        "name": folder.name, "version": "1", "task": "classification", "labels": LABELS, "files": {name: entry},
        "inputs": [{"name": "image", "shape": [side, side, channels], "dtype": "uint8", "layout": "NHWC"}],
        "outputs": [{"name": "probabilities", "shape": [2]}],
        "variants": {changes.pop("key", "cpu-int8"): variant},
        "preprocess": {"color": "gray" if channels == 1 else "rgb"},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


PLUGIN = """
import os, time
import numpy as np
from edge_agent.models import EngineMissing, RunnerInfo
from shared.errors import ModelError

class Odd:
    def __init__(self, kind):
        self.kind, self.calls, self.kept = kind, 0, []
    def describe(self):
        return RunnerInfo(provider=self.kind, precision="fp32", device="none")
    def warm_up(self):
        pass
    def run(self, batch):
        self.calls += 1
        value = next(iter(batch.values()))
        if self.kind == "leaks":
            self.kept.append(bytearray(os.urandom(1)) * (8 << 20))
        if self.calls > 1 and self.kind == "segfaults":
            import ctypes
            ctypes.string_at(0)
        if self.kind == "nan":
            return {"probabilities": np.full((len(value), 2), np.nan, np.float32)}
        bright = value.reshape(len(value), -1).mean(axis=1).astype(np.float32) / 255
        return {"probabilities": np.stack([1 - bright, bright], axis=1)}
    def close(self):
        pass

def segfaults_at_open(bundle, variant, options):
    import ctypes
    ctypes.string_at(0)

def hangs_at_open(bundle, variant, options):
    time.sleep(3600)

def needs_build(bundle, variant, options):
    file = os.path.join(options.cache_dir, "engine")
    if not os.path.exists(file):
        if options.build is None:
            raise EngineMissing("its engine is not built yet")
        for step in range(4 if not os.path.exists(options.cache_dir + "/endless") else 10_000):
            options.build(step / 4, "building")
            time.sleep(0.02)
        try:
            with open(file, "w") as out:
                out.write("engine")
        except OSError as error:
            raise ModelError(f"{file}: cannot be written ({error.strerror})") from error
    return Odd("built")

def leaks(*_): return Odd("leaks")
def segfaults(*_): return Odd("segfaults")
def nan(*_): return Odd("nan")
def prints(*_):
    print("a library that prints")
    return Odd("prints")
"""


def install_odd_runners(home: Path) -> str:
    """A package of runner plug-ins that misbehave; returns the folder for PYTHONPATH."""
    info = home / "odd-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    kinds = ("segfaults_at_open", "hangs_at_open", "needs_build", "leaks", "segfaults", "nan", "prints")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    points = "".join(f"{kind} = odd_runners:{kind}\n" for kind in kinds)
    (info / "entry_points.txt").write_text(f"[tidegate.runners]\n{points}")
    (home / "odd_runners.py").write_text(PLUGIN)
    return str(home)
