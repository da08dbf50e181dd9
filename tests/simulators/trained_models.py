"""Small real ONNX models with data, made in milliseconds: for builds, runners and TensorRT's parser."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Value = tuple[str, Sequence[Any]]
DIGITS = [str(digit) for digit in range(10)]
TASKS = ("classification", "detection", "ssd", "segmentation", "anomaly", "regression", "tensors")


def model(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, Any], inputs: Sequence[Value], outputs: Sequence[Value],
    *, dtype: int = TensorProto.FLOAT, opset: int = 17,
) -> onnx.ModelProto:  # fmt: skip
    """A checked model; float constants are stored as float32."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(_stored(value), name) for name, value in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def _stored(value: Any) -> Any:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


@cache
def digit_features() -> tuple[Any, Any, Any, Any]:
    """(kernels, pixels, labels, features) of the digits: twelve random filters of 3x3, pooled by two."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.rint(data.images * 255 / 16).astype(np.uint8)
    kernels = np.random.default_rng(3).normal(0, 0.5, (12, 1, 3, 3)).astype(np.float32)
    padded = np.pad(pixels / 255.0, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    maps = np.maximum(np.einsum("nhwij,kij->nkhw", windows, kernels[:, 0]), 0)
    pooled = maps.reshape(len(pixels), 12, 4, 2, 4, 2).max(axis=(3, 5))
    return kernels, pixels, data.target, pooled.reshape(len(pixels), -1)


@cache
def digits_weights() -> tuple[Any, Any]:
    """Weights of the last layer, trained on the first 1,000 digits."""
    from sklearn.linear_model import LogisticRegression

    _, _, labels, features = digit_features()
    fitted = LogisticRegression(C=0.1, max_iter=60, tol=1e-2).fit(features[:1000], labels[:1000])
    return fitted.coef_, fitted.intercept_


def digits_classifier(*, batch: Any = "N", softmax: bool = True, opset: int = 17) -> onnx.ModelProto:
    """Gray digits [N, 1, 8, 8], 0..1 -> probabilities or logits of ten labels; about 97 % right."""
    kernels, *_ = digit_features()
    weights, bias = digits_weights()
    nodes = [
        node("Conv", "image kernels", "maps", pads=[1, 1, 1, 1]), node("Relu", "maps", "lit"),
        node("MaxPool", "lit", "pooled", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "pooled", "flat"),
        node("Gemm", "flat weights bias", "scores", transB=1),
        *([node("Softmax", "scores", "probabilities", axis=1)] if softmax else []),
    ]  # fmt: skip
    constants = {"kernels": kernels, "weights": weights, "bias": bias}
    output = "probabilities" if softmax else "scores"
    return model(nodes, constants, [("image", (batch, 1, 8, 8))], [(output, (batch, 10))], opset=opset)


def digits_folder(folder: Path, count: int = 200) -> Path:
    """Pictures of digits that the classifier was not trained on, in a folder for each label."""
    from PIL import Image

    _, pixels, labels, _ = digit_features()
    for number in range(1000, 1000 + count):
        target = folder / str(labels[number]) / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(target)
    return folder


def digits_npz(path: Path, count: int = 200) -> Path:
    _, pixels, labels, _ = digit_features()
    np.savez(path, inputs=pixels[1000 : 1000 + count], labels=labels[1000 : 1000 + count])
    return path


def detector(*, head: str = "yolov8") -> onnx.ModelProto:
    """RGB [N, 3, 32, 32] -> bright (label 0) and red (label 1) squares of 8 pixels, on a grid of 7 x 7."""
    bright, red = np.full((3, 8, 8), 1 / 192), np.zeros((3, 8, 8))
    red[0], red[1], red[2] = 1 / 64, -1 / 64, -1 / 64
    kernels, bias = 16 * np.stack([bright, red]), np.array([-11.0, -9.0])
    centres = np.stack(np.meshgrid(np.arange(7), np.arange(7), indexing="xy")).reshape(2, 49) * 4 + 4.0
    places = np.concatenate([centres, np.full((2, 49), 8.0)])[None]
    nodes = [
        node("Conv", "images kernels bias", "heat", strides=[4, 4]), node("Reshape", "heat rows", "raw"),
        node("Sigmoid", "raw", "scores"),
        node("Shape", "scores", "sides"), node("Gather", "sides zero", "n"),
        node("Concat", "n four", "tiles", axis=0), node("Tile", "places tiles", "boxes"),
    ]  # fmt: skip
    constants: dict[str, Any] = {
        "kernels": kernels, "bias": bias, "places": places, "rows": np.array([0, 2, 49], np.int64),
        "zero": np.array([0], np.int64), "four": np.array([1, 1], np.int64),
    }  # fmt: skip
    if head == "yolov8":
        nodes.append(node("Concat", "boxes scores", "output0", axis=1))
        outputs: list[Value] = [("output0", ("N", 6, 49))]
    else:
        nodes += [node("Transpose", name, f"{name}_out", perm=[0, 2, 1]) for name in ("boxes", "scores")]
        outputs = [("scores_out", ("N", 49, 2)), ("boxes_out", ("N", 49, 4))]
    return model(nodes, constants, [("images", ("N", 3, 32, 32))], outputs)


def squares(count: int, seed: int = 1) -> Any:
    """uint8 RGB [count, 32, 32, 3]: dark noise with one bright and one red square on the detector's grid."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 60, (count, 32, 32, 3), np.uint8)
    for frame in frames:
        (x, y), (u, v) = rng.integers(0, 3, 2) * 4, rng.integers(4, 7, 2) * 4
        frame[y : y + 8, x : x + 8] = rng.integers(210, 256)
        frame[v : v + 8, u : u + 8] = (rng.integers(220, 256), 10, 10)
    return frames


def mobile() -> onnx.ModelProto:
    """Depthwise layers, HardSwish, squeeze-and-excitation and added constants, as mobile networks have them."""
    rng = np.random.default_rng(4)
    nodes = [
        node("Conv", "images first", "a", pads=[1, 1, 1, 1], strides=[2, 2]), node("HardSwish", "a", "b"),
        node("Conv", "b depth", "c", pads=[1, 1, 1, 1], group=8), node("GlobalAveragePool", "c", "d"),
        node("Conv", "d squeeze", "e"), node("Add", "e shift", "f"), node("Clip", "f low high", "g"),
        node("Mul", "c g", "h"), node("Add", "h b", "i"), node("Conv", "i last", "j"), node("Relu", "j", "k"),
        node("GlobalAveragePool", "k", "l"), node("Flatten", "l", "m"), node("Gemm", "m weights", "scores"),
    ]  # fmt: skip
    constants = {
        "first": rng.normal(size=(8, 3, 3, 3)), "depth": rng.normal(size=(8, 1, 3, 3)),
        "squeeze": rng.normal(size=(8, 8, 1, 1)), "last": rng.normal(size=(16, 8, 1, 1)),
        "weights": rng.normal(size=(16, 3)), "shift": np.array(0.5), "low": np.array(0.0), "high": np.array(6.0),
    }  # fmt: skip
    return model(nodes, constants, [("images", ("N", 3, 16, 16))], [("scores", ("N", 3))])


def yolo_head() -> onnx.ModelProto:
    """A head as YOLO v8 has it: four box sides as distributions over 16 bins, two classes, 16 places."""
    rng = np.random.default_rng(6)
    nodes = [
        node("Conv", "images stem_w", "stem_out", name="stem", strides=[4, 4]), node("Relu", "stem_out", "lit"),
        node("Conv", "lit box_w", "box_out", name="box"), node("Conv", "lit class_w", "class_out", name="class"),
        node("Concat", "box_out class_out", "both", axis=1), node("Reshape", "both rows", "flat"),
        node("Split", "flat parts", "bins logits", axis=1), node("Reshape", "bins four", "sides"),
        node("Transpose", "sides", "turned", perm=[0, 2, 1, 3]), node("Softmax", "turned", "shares", axis=1),
        node("Conv", "shares steps", "distances", name="expectation"), node("Reshape", "distances flat4", "boxes"),
        node("Sigmoid", "logits", "scores"), node("Concat", "boxes scores", "output0", axis=1),
    ]  # fmt: skip
    constants = {
        "stem_w": rng.normal(size=(8, 3, 4, 4)), "box_w": rng.normal(size=(64, 8, 1, 1)),
        "class_w": rng.normal(size=(2, 8, 1, 1)), "steps": np.arange(16.0).reshape(1, 16, 1, 1),
        "rows": np.array([0, 66, 16]), "parts": np.array([64, 2]), "four": np.array([0, 4, 16, 16]),
        "flat4": np.array([0, 4, 16]),
    }  # fmt: skip
    return model(nodes, constants, [("images", ("N", 3, 16, 16))], [("output0", ("N", 6, 16))])


def segmenter() -> onnx.ModelProto:
    """RGB [N, 3, 32, 32] -> logits of background, bright and red for each pixel, smoothed over 3 x 3."""
    kernels = np.zeros((3, 3, 3, 3))
    kernels[0], kernels[1] = 0.0, 1 / 27
    kernels[2, 0], kernels[2, 1:] = 1 / 9, -1 / 9
    nodes = [node("Conv", "images kernels bias", "logits", pads=[1, 1, 1, 1])]
    constants = {"kernels": 12 * kernels, "bias": np.array([3.0, -4.0, -3.0])}
    return model(nodes, constants, [("images", ("N", 3, 32, 32))], [("logits", ("N", 3, 32, 32))])


def waves(count: int, *, broken: int = 0, seed: int = 1) -> Any:
    """Windows [count, 24, 2] of two metrics in step; in the first `broken` the second one fails."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6.28, (count, 1)) + np.arange(24) * 0.26
    found = np.stack([np.sin(phase), np.sin(phase + 0.5)], axis=2) + rng.normal(0, 0.05, (count, 24, 2))
    found[:broken, 8:, 1] += 1.5
    return found.astype(np.float32)


def autoencoder() -> onnx.ModelProto:
    """Windows [N, 24, 2] -> the same through their three main components."""
    rows = waves(400, seed=5).reshape(400, 48)
    _, _, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    nodes = [
        node("Flatten", "window", "flat"), node("Sub", "flat mean", "centred"),
        node("MatMul", "centred down", "code"), node("MatMul", "code up", "back"), node("Add", "back mean", "whole"),
        node("Reshape", "whole sides", "out"),
    ]  # fmt: skip
    constants = {
        "mean": rows.mean(axis=0), "down": axes[:3].T, "up": axes[:3], "sides": np.array([0, 24, 2], np.int64),
    }  # fmt: skip
    return model(nodes, constants, [("window", ("N", 24, 2))], [("out", ("N", 24, 2))])


def regressor() -> onnx.ModelProto:
    """Windows [N, 24, 2] -> ten times the mean of the first metric plus the last value of the second one."""
    weights = np.zeros((24, 2))
    weights[:, 0], weights[-1, 1] = 10 / 24, 1.0
    nodes = [node("Flatten", "window", "flat"), node("Gemm", "flat weights", "life")]
    return model(nodes, {"weights": weights.reshape(48, 1)}, [("window", ("N", 24, 2))], [("life", ("N", 1))])


def saved(made: onnx.ModelProto, path: Path) -> Path:
    onnx.save(made, path)
    return path
