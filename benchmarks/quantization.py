"""FP32 against INT8 of a trained classifier and a trained detector: accuracy, size, latency.

    python -m benchmarks.quantization [--seconds 0.5] [--json FILE]

Both are made of random convolutions with a last layer trained on scikit-learn's digits. classifier: a digit of ten on
48 x 48 pixels. detector: zeros and ones of 16 x 16 among noise and other digits, on 96 x 96. Bundles come from
`model build`; accuracy (the detector's F1 of boxes with half of their area in common) is of digits that neither the
training nor the calibration has seen. Latency is of one thread of ONNX Runtime, the variants in turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from benchmarks.report import Row, arguments, publish
from cloud_hub.models.build import build
from cloud_hub.models.request import BuildRequest
from cloud_hub.models.session import OnnxSession
from shared.models.bundle import Bundle, load
from shared.models.gate import Box, Result
from shared.tasks import open_task

TRAINED, CALIBRATED = 1000, 1250
"""Digits 0..999 train, 1000..1249 calibrate, the others are the test."""
SIDE, CANVAS, DIGIT, STEP = 48, 96, 16, 8
BATCHES = (1, 8, 32)
Filters = list[Any]


def digits() -> tuple[Any, Any]:
    """(uint8 [n, 8, 8], labels)."""
    data = load_digits()
    return np.rint(data.images * 255 / 16).astype(np.uint8), data.target


def grown(pixels: Any, side: int) -> Any:
    """Digits at `side` pixels, each pixel repeated."""
    return np.kron(pixels, np.ones((1, side // 8, side // 8), np.uint8))


def filters(seed: int, widths: list[int]) -> Filters:
    """Random kernels of 3 x 3, layer by layer, scaled so that no layer grows or fades."""
    rng = np.random.default_rng(seed)
    sizes = zip([1, *widths], widths, strict=False)
    return [rng.normal(0, np.sqrt(2 / (9 * old)), (new, old, 3, 3)).astype(np.float32) for old, new in sizes]


# -- networks ---------------------------------------------------------------------------------------------


def stem(kernels: Filters) -> tuple[list[Any], dict[str, Any], str]:
    """(nodes, constants, last tensor) of convolutions of stride 2, each with a ReLU."""
    nodes, constants, last = [], {}, "image"
    for at, kernel in enumerate(kernels):
        constants[f"k{at}"] = kernel
        nodes.append(helper.make_node("Conv", [last, f"k{at}"], [f"c{at}"], pads=[1] * 4, strides=[2, 2]))
        nodes.append(helper.make_node("Relu", [f"c{at}"], [f"r{at}"]))
        last = f"r{at}"
    return nodes, constants, last


def network(nodes: list[Any], constants: dict[str, Any], side: int, output: str, shape: list[Any]) -> Any:
    """A checked model of gray images [N, 1, side, side]."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, side, side])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *shape])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def features(kernels: Filters, images: Any, last: int) -> Any:
    """What the random layers make of images, float32 [n, channels, h, w]."""
    nodes, constants, name = stem(kernels)
    side = images.shape[1]
    made = network(nodes, constants, side, name, [kernels[-1].shape[0], last, last])
    import onnxruntime as ort  # noqa: PLC0415 - after the models were checked

    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": (images / 255).astype(np.float32)[:, None]})[0]


def classifier(seed: int, images: Any, labels: Any) -> Any:
    """Three random layers and a trained one."""
    kernels = filters(seed, [16, 32, 64])
    seen = features(kernels, images, SIDE // 8).reshape(len(images), -1)
    fitted = LogisticRegression(C=0.01, max_iter=100, tol=1e-2).fit(seen, labels)
    nodes, constants, last = stem(kernels)
    nodes += [
        helper.make_node("Flatten", [last], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["scores"], transB=1),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    constants |= {"weights": fitted.coef_.astype(np.float32), "bias": fitted.intercept_.astype(np.float32)}
    return network(nodes, constants, SIDE, "probabilities", [10])


def detector(seed: int, canvases: Any, truth: list[list[Box]]) -> Any:
    """Two random layers and a trained one over windows of 16 x 16 pixels, every 8 pixels; a head as YOLO v8 has it."""
    kernels, cells = filters(seed, [24, 48]), (CANVAS - DIGIT) // STEP + 1
    seen = features(kernels, canvases, CANVAS // 4)
    windows = np.lib.stride_tricks.sliding_window_view(seen, (4, 4), axis=(2, 3))[:, :, ::2, ::2]
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 48 * 16)
    target = np.zeros((len(canvases), cells, cells), int)
    for number, boxes in enumerate(truth):
        for box in boxes:
            target[number, round(box.y * CANVAS / STEP), round(box.x * CANVAS / STEP)] = 1 + int(box.label == "one")
    fitted = LogisticRegression(C=0.01, max_iter=60, tol=1e-2).fit(rows, target.reshape(-1))
    nodes, constants, last = stem(kernels)
    centres = np.stack(np.meshgrid(np.arange(cells), np.arange(cells))).reshape(2, -1) * STEP + DIGIT / 2
    places = np.concatenate([centres, np.full((2, cells * cells), DIGIT)])[None].astype(np.float32)
    constants |= {
        "weights": fitted.coef_.astype(np.float32).reshape(3, 48, 4, 4), "bias": fitted.intercept_.astype(np.float32),
        "rows": np.array([0, 3, cells * cells]), "places": places, "zero": np.array([0]), "one": np.array([1]),
        "three": np.array([3]), "four": np.array([1, 1]),
    }  # fmt: skip
    nodes += [
        helper.make_node("Conv", [last, "weights", "bias"], ["heat"], strides=[2, 2]),
        helper.make_node("Reshape", ["heat", "rows"], ["raw"]),
        helper.make_node("Softmax", ["raw"], ["shares"], axis=1),
        helper.make_node("Slice", ["shares", "one", "three", "one"], ["scores"]),
        helper.make_node("Shape", ["scores"], ["sides"]), helper.make_node("Gather", ["sides", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "four"], ["tiles"], axis=0),
        helper.make_node("Tile", ["places", "tiles"], ["boxes"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]  # fmt: skip
    return network(nodes, constants, CANVAS, "output0", [6, cells * cells])


def scenes(seed: int, count: int, pixels: Any, labels: Any) -> tuple[Any, list[list[Box]]]:
    """Canvases with four digits each, apart from one another, and the boxes of the zeros and ones."""
    rng, side = np.random.default_rng(seed), DIGIT / CANVAS
    canvases = rng.integers(0, 50, (count, CANVAS, CANVAS), np.uint8)
    wanted, truth = np.flatnonzero(labels < 2), []
    for canvas in canvases:
        boxes = []
        for place in rng.choice(9, 4, replace=False):
            chosen = int(rng.choice(wanted) if rng.random() < 0.6 else rng.integers(len(labels)))
            y, x = (int(side) * 32 + int(rng.integers(3)) * STEP for side in divmod(int(place), 3))
            part = canvas[y : y + DIGIT, x : x + DIGIT]
            np.maximum(part, grown(pixels[chosen : chosen + 1], DIGIT)[0], out=part)
            if labels[chosen] < 2:
                name = ("zero", "one")[labels[chosen]]
                boxes.append(Box(label=name, score=1.0, x=x / CANVAS, y=y / CANVAS, w=side, h=side))
        truth.append(boxes)
    return canvases, truth


# -- figures ----------------------------------------------------------------------------------------------


def bundles(folder: Path, seed: int) -> dict[str, tuple[Path, Any, list[Any]]]:
    """(bundle, test frames, the truth of each) of both models."""
    pixels, labels = digits()
    parts = [slice(0, TRAINED), slice(TRAINED, CALIBRATED), slice(CALIBRATED, None)]
    images = grown(pixels, SIDE)
    made = {"classifier": classifier(seed, images[parts[0]], labels[parts[0]])}
    views = [scenes(seed + n, 300, pixels[part], labels[part]) for n, part in enumerate(parts)]
    made["detector"] = detector(seed, *views[0])
    np.savez(folder / "classifier.npz", inputs=images[parts[1]][..., None], labels=labels[parts[1]].astype(str))
    np.savez(folder / "detector.npz", inputs=views[1][0][..., None])
    tests: dict[str, tuple[Any, Any]] = {
        "classifier": (images[parts[2]], [str(label) for label in labels[parts[2]]]), "detector": views[2],
    }  # fmt: skip
    names = {"classifier": [str(n) for n in range(10)], "detector": ["zero", "one"]}
    for name, task in (("classifier", "classification"), ("detector", "detection")):
        onnx.save(made[name], folder / f"{name}.onnx")
        build(BuildRequest(
            onnx=folder / f"{name}.onnx", task=task, calibration=folder / f"{name}.npz", out=folder / name,
            labels=names[name], variants=("cpu-int8", "fp32"), tolerance=1.0,
        ))  # fmt: skip
    return {name: (folder / name, frames[..., None], list(truth)) for name, (frames, truth) in tests.items()}


def accuracy(bundle: Bundle, variant: str, frames: Any, truth: list[Any]) -> float:
    """Share of right labels, or the mean F1 of the boxes, in %."""
    task, session = open_task(bundle.manifest, variant), OnnxSession(bundle.model(variant), bundle.manifest)
    inputs = list(frames)
    results = task.postprocess(session.run(task.preprocess(inputs)), inputs)
    if bundle.manifest.task == "classification":
        return 100 * float(np.mean([one.label == label for one, label in zip(results, truth, strict=True)]))
    wanted = [Result(label="", margin=1.0, digest="", boxes=boxes) for boxes in truth]
    return 100 * float(np.mean([task.agreement(one, other) for one, other in zip(results, wanted, strict=True)]))


def latencies(bundle: Bundle, frames: Any, batch: int, seconds: float) -> dict[str, float]:
    """Median us a frame of each variant, in turns."""
    calls: dict[str, Callable[[], Any]] = {}
    times: dict[str, list[float]] = {key: [] for key in bundle.manifest.variants}
    for key in times:
        task, session = open_task(bundle.manifest, key), OnnxSession(bundle.model(key), bundle.manifest)
        tensors = task.preprocess(list(frames[:batch]))
        calls[key] = partial(session.run, tensors)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, call in calls.items():
            began = time.perf_counter()
            call()
            times[key].append((time.perf_counter() - began) * 1e6 / batch)
    return {key: float(np.median(values)) for key, values in times.items()}


def rows(seed: int, seconds: float) -> list[Row]:
    """All figures."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        for kind, (folder, frames, truth) in bundles(Path(name), seed).items():
            bundle = load(folder)
            for key in ("fp32", "cpu-int8"):
                size = bundle.manifest.files[bundle.manifest.variant(key).file].size / 1e3
                found.append(Row(kind, key, "accuracy", accuracy(bundle, key, frames, truth), "%"))
                found.append(Row(kind, key, "size", size, "kB"))
            for batch in BATCHES:
                for key, value in latencies(bundle, frames, batch, seconds).items():
                    found.append(Row(kind, key, f"a frame, batches of {batch}", value, "us"))
    return found


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", seconds=0.5)
    publish("quantization", options.seed, rows(options.seed, options.seconds), options.json)


if __name__ == "__main__":
    main()
