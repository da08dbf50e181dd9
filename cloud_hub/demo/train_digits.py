"""Train the demo's two digit readers and write them with manifests and model cards.

    python -m cloud_hub.demo.train_digits            # writes assets/digits-edge and assets/digits-expert
    python -m cloud_hub.demo.train_digits --inner    # tuning: trains on 72 % of the training split and
                                                     # reports on its other 28 %; writes nothing

Needs numpy, scikit-learn, onnx and onnxruntime. Both models read float32 [N, 1, 8, 8], values 0..1.
"""

from __future__ import annotations

import argparse
import tempfile
import textwrap
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from sklearn.neural_network import MLPClassifier

from cloud_hub.demo import digits
from cloud_hub.models.golden import COUNT, GOLDEN, golden_files
from cloud_hub.models.writer import make_manifest, write_bundle
from shared.models.manifest import Preprocess, TensorSpec, Variant
from shared.tasks import open_task

Array = NDArray[np.float64]
Layers = list[tuple[Array, Array]]  # (weights [in, out], bias [out]) from the input to the logits

MIN_MEAN = 1.0 / 765.0  # floor under the mean pixel, so that a black frame does not divide by zero
OPSET, IR_VERSION = 17, 8  # read by onnxruntime 1.23 and TensorRT 10

CARD_USE = """## Intended use

The Tidegate demo, and nothing else: showing when an edge device keeps an answer and when it asks the hub."""
CARD_DATA = """UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak; CC BY 4.0) as shipped
in scikit-learn (`load_digits`: 1,797 images, 8x8, which is the UCI set's test part). Pixels 0..16 become
uint8 `round(v * 255 / 16)`; the model reads uint8 / 255. Fixed stratified split in `digits.py`: {} training
images, {} held out and used for nothing but the figures below. Settings were chosen inside the training
split (`--inner`)."""
CARD_FRONT = """a black level of {} is subtracted, negatives become 0, the rest is divided by its mean"""
CARD_EDGE_LIMITS = """\
- The front end suits daylight: in the dark, thin strokes vanish and the rest is amplified,
  so the model reads broken digits with confidence. **This was chosen on purpose**, so that the demo shows a
  fixed margin gate failing; a product would use a model trained for the dark, as digits-expert is.
"""
CARD_LIMITS = """- 8x8 digits by the same few writers in both parts of the split; no other writers were tried.
- "Brightness" multiplies the pixels and rounds; real dark frames also have noise and blur.
- One split and one training run: a difference of about one point is chance."""
CARD_GATE = """

A fixed margin gate (keep when largest minus second probability exceeds a threshold), whose threshold is set
on clean held-out frames against digits-expert, and what it does when the light goes. Percent of all frames.

"""
CARD_REPRODUCE = """`python -m cloud_hub.demo.train_digits --seed {}`, with
{}.
Same bytes on the same machine and packages; another processor or numpy build may round
differently, and then the figures move slightly."""


@dataclass(frozen=True)
class Recipe:
    """How one model is built, trained and augmented. Shift is in pixels, rotation in degrees."""

    name: str
    hidden: tuple[int, ...]
    members: int
    epochs: int
    copies: int
    rate: float
    decay: float
    shift: float
    rotation: float
    scale: float
    brightness: tuple[float, float]
    noise: float
    black_level: float | None  # None: no daylight front end


EDGE = Recipe("digits-edge", (48,), 1, 300, 2, 3e-3, 3e-3, 1.0, 0.0, 0.0, (0.8, 1.1), 0.03, 0.29)
EXPERT = Recipe("digits-expert", (256, 128), 2, 150, 4, 1e-3, 1e-4, 1.0, 10.0, 0.1, (0.2, 1.2), 0.04, None)


def warp(images: Array, recipe: Recipe, rng: np.random.Generator) -> Array:
    """Randomly shift, rotate and scale each image [N, 8, 8] (bilinear, black outside)."""
    count = len(images)
    angle = np.deg2rad(rng.uniform(-recipe.rotation, recipe.rotation, (count, 1, 1)))
    size = rng.uniform(1 - recipe.scale, 1 + recipe.scale, (count, 1, 1))
    shift = rng.uniform(-recipe.shift, recipe.shift, (2, count, 1, 1))
    y, x = np.mgrid[0:8, 0:8] - 3.5
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    # 5.5 = centre of the 8x8 image after two rows of black padding; clipped to stay inside the padding.
    rows = np.clip(cos * y + sin * x + shift[0] + 5.5, 0, 10.999)
    cols = np.clip(cos * x - sin * y + shift[1] + 5.5, 0, 10.999)
    i, j = rows.astype(np.intp), cols.astype(np.intp)
    fy, fx = rows - i, cols - j
    padded, n = np.pad(images, ((0, 0), (2, 2), (2, 2))), np.arange(count)[:, None, None]
    top = padded[n, i, j] * (1 - fx) + padded[n, i, j + 1] * fx
    bottom = padded[n, i + 1, j] * (1 - fx) + padded[n, i + 1, j + 1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy, dtype=np.float64)


def augment(images: Array, recipe: Recipe, rng: np.random.Generator) -> Array:
    """One randomly changed copy of each image [N, 8, 8], values 0..1, flattened to [N, 64]."""
    gain = rng.uniform(*recipe.brightness, (len(images), 1, 1))
    changed = warp(images, recipe, rng) * gain + rng.normal(0.0, recipe.noise, images.shape)
    return np.clip(changed, 0.0, 1.0).reshape(len(images), 64)


def front_end(flat: Array, recipe: Recipe) -> Array:
    """What the first layer sees of [N, 64] pixels: as they are, or after the daylight front end."""
    if recipe.black_level is None:
        return flat
    lit = np.maximum(flat - recipe.black_level, 0.0)
    exposure: Array = np.maximum(lit.mean(axis=1, keepdims=True), MIN_MEAN)
    return np.asarray(lit / exposure / 3.0, dtype=np.float64)


def fit(images: digits.Images, labels: digits.Labels, recipe: Recipe, seed: int) -> Layers:
    """Train one network on uint8 images [N, 8, 8]; the weights are the mean over the last epochs."""
    rng = np.random.default_rng(seed)
    pixels = images.astype(np.float64) * digits.INPUT_SCALE
    network = MLPClassifier(
        recipe.hidden, learning_rate_init=recipe.rate, alpha=recipe.decay, batch_size=64, random_state=seed
    )
    total: list[Array] = []
    averaged = recipe.epochs // 4
    for epoch in range(recipe.epochs):
        batch = np.concatenate([augment(pixels, recipe, rng) for _ in range(recipe.copies)])
        network.partial_fit(front_end(batch, recipe), np.tile(labels, recipe.copies), classes=np.arange(10))
        if epoch >= recipe.epochs - averaged:
            now = [*network.coefs_, *network.intercepts_]
            total = [a + b for a, b in zip(total, now, strict=True)] if total else [w.copy() for w in now]
    mean = [weights / averaged for weights in total]
    depth = len(mean) // 2
    return list(zip(mean[:depth], mean[depth:], strict=True))


def front_end_nodes(recipe: Recipe, parameters: dict[str, Array]) -> list[onnx.NodeProto]:
    """Graph nodes from `image` to `pixels` [N, 64]; adds their constants to `parameters`."""
    if recipe.black_level is None:
        return [helper.make_node("Flatten", ["image"], ["pixels"])]
    parameters["black_level"] = np.asarray(recipe.black_level)
    parameters["min_mean"] = np.asarray(MIN_MEAN)
    return [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Sub", ["flat", "black_level"], ["above"]),
        helper.make_node("Relu", ["above"], ["lit"], name="lit"),
        helper.make_node("ReduceMean", ["lit"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Max", ["mean", "min_mean"], ["exposure"]),
        helper.make_node("Div", ["lit", "exposure"], ["pixels"]),
    ]


def member_nodes(layers: Layers, member: int, parameters: dict[str, Array]) -> list[onnx.NodeProto]:
    """Gemm/Relu chain from `pixels` to `logits<member>` [N, 10]; adds its weights to `parameters`."""
    nodes, source = [], "pixels"
    for number, (weights, bias) in enumerate(layers):
        name, last = f"m{member}_fc{number}", number == len(layers) - 1
        # [out, in] with transB, the layout in which INT8 scales per output channel are axis 0.
        parameters[f"{name}_w"], parameters[f"{name}_b"] = weights.T, bias
        result = f"logits{member}" if last else f"{name}_sum"
        inputs = [source, f"{name}_w", f"{name}_b"]
        nodes.append(helper.make_node("Gemm", inputs, [result], name=name, transB=1))
        if not last:
            source = f"{name}_out"
            nodes.append(helper.make_node("Relu", [result], [source], name=source))
    return nodes


def build(recipe: Recipe, members: list[Layers]) -> onnx.ModelProto:
    """The FP32 model: image [N, 1, 8, 8] -> probabilities [N, 10] (softmax of the members' mean logits)."""
    parameters: dict[str, Array] = {}
    nodes = front_end_nodes(recipe, parameters)
    for number, layers in enumerate(members):
        first = layers[0]
        if recipe.black_level is not None:  # the front end's "/ 3" costs nothing inside the first weights
            first = (layers[0][0] / 3.0, layers[0][1])
        nodes += member_nodes([first, *layers[1:]], number, parameters)
    names = [f"logits{number}" for number in range(len(members))]
    if len(names) > 1:
        nodes.append(helper.make_node("Mean", names, ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits" if len(names) > 1 else names[0]], ["probabilities"]))
    graph = helper.make_graph(
        nodes,
        recipe.name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in parameters.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="tidegate"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class Frames(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
    """Feeds training images to the quantizer, all in one batch."""

    def __init__(self, images: digits.Images) -> None:
        """`images`: uint8 [N, 8, 8]."""
        self._batches = iter([{"image": digits.to_input(images)}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:  # type: ignore[override]
        """The next batch, or None at the end."""
        return next(self._batches, None)


def quantize(model: onnx.ModelProto, images: digits.Images) -> onnx.ModelProto:
    """The INT8 QDQ form of `model`, ranges calibrated on uint8 training images [N, 8, 8].

    Symmetric with float biases because TensorRT accepts nothing else; only Gemm and Relu are
    quantized, so the front end and the softmax stay in float.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            Frames(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Gemm", "Relu"],
            nodes_to_exclude=["lit"],
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        quantized = onnx.load(target)
    onnx.checker.check_model(quantized, full_check=True)
    opsets = [(entry.domain, entry.version) for entry in quantized.opset_import]
    if quantized.ir_version > IR_VERSION or any(d not in ("", "ai.onnx") or v > OPSET for d, v in opsets):
        raise RuntimeError(f"the quantizer changed the format: IR {quantized.ir_version}, opsets {opsets}")
    return quantized


def reader(model: onnx.ModelProto) -> digits.Reader:
    """The model as a function from uint8 images [N, 8, 8] to probabilities [N, 10], on the CPU."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"image": digits.to_input(images)})[0])


def save(folder: Path, data: bytes, recipe: Recipe, text: str) -> None:
    """Write the bundle of one model into `folder`. The INT8 file is of the form that TensorRT parses too."""
    quantized = recipe is EDGE
    on_cpu = Variant(file="model.onnx", format="onnx", precision="int8" if quantized else "fp32", runners=["onnx"])
    on_gpu = replace(on_cpu, runners=["tensorrt", "onnx"])
    files = {"model.onnx": data, "CARD.md": text.encode()}
    fields: dict[str, Any] = {
        "name": recipe.name, "version": "1.0.0", "task": "classification", "labels": [str(n) for n in range(10)],
        "inputs": [TensorSpec(name="image", shape=(1, 8, 8), layout="NCHW")],
        "outputs": [TensorSpec(name="probabilities", shape=(10,))],
        "preprocess": Preprocess(color="gray", scale=digits.INPUT_SCALE),
        "variants": {"cpu-int8": on_cpu, "tensorrt-int8": on_gpu} if quantized else {"fp32": on_cpu},
        "provenance": {"made by": "cloud_hub.demo.train_digits", "data": "UCI handwritten digits"},
        "licence": "Apache-2.0; data CC-BY-4.0",
    }  # fmt: skip
    manifest = make_manifest(files, **fields)
    models = dict.fromkeys(manifest.variants, data)
    frames = [image[..., None] for image in digits.held_out()[0][:COUNT]]
    files |= golden_files(manifest, open_task(manifest, next(iter(models))), models, frames)
    entries = make_manifest(files, **fields, golden=GOLDEN)
    write_bundle(folder, entries, files, replace=True)
    print(text)


def table(head: list[str], columns: list[list[float]]) -> str:
    """A Markdown table with one row per brightness; the columns are percentages."""
    lines = ["| brightness | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for brightness, *values in zip(digits.BRIGHTNESS, *columns, strict=True):
        lines.append(f"| x{brightness:g} | " + " | ".join(f"{value:.1f} %" for value in values) + " |")
    return "\n".join(lines)


def gate_report(edge: digits.Reader, expert: digits.Reader, images: digits.Images, labels: digits.Labels) -> str:
    """Markdown: a margin gate set on the first clean frames, then measured on all the other frames."""
    first = digits.GATE_FRAMES
    k, limit = digits.gate(edge, expert, images[:first])
    escalated, wrong = digits.gate_rates(edge, limit, images[first:], labels[first:])
    return (
        f"Margin threshold {limit:.4f} (k = {k}), set on {first} clean frames; measured on the other "
        f"{len(images) - first}.\n\n" + table(["escalated", "kept but wrong"], [escalated, wrong])
    )


def card(
    recipe: Recipe, fp32: onnx.ModelProto, seed: int, counts: tuple[int, int], *, facts: list[str], measured: str
) -> str:
    """The model card in Markdown; `counts` are the training and held-out images."""
    packages = ", ".join(f"{p} {version(p)}" for p in ("numpy", "scikit-learn", "onnx", "onnxruntime"))
    weights = sum(int(np.prod(tensor.dims)) for tensor in fp32.graph.initializer if tensor.dims)
    data, limits, front = CARD_DATA.format(*counts), CARD_LIMITS, "none (pixels go straight in)"
    if recipe.black_level is not None:
        front, limits = CARD_FRONT.format(recipe.black_level), CARD_EDGE_LIMITS + CARD_LIMITS
    sizes = "-".join(map(str, recipe.hidden))
    settings = (
        f"{recipe.members} network(s) 64-{sizes}-10 with ReLU; front end: "
        f"{front}. Adam, rate {recipe.rate:g}, L2 {recipe.decay:g}, batches of 64, {recipe.epochs} "
        f"epochs of {recipe.copies} fresh augmented copies, weights averaged over the last quarter. "
        f"Augmentation: shift {recipe.shift:g} pixel, rotation {recipe.rotation:g} degrees, scale "
        f"{recipe.scale:g} (each plus or minus), brightness {recipe.brightness[0]:g} to "
        f"{recipe.brightness[1]:g}, noise {recipe.noise:g} (standard deviation, full scale 1). "
        f"Seed {seed}."
    )
    listed = "\n".join(f"- {fact}" for fact in [f"{weights:,} parameters", *facts])
    parts = [
        f"# {recipe.name} 1.0.0",
        CARD_USE,
        "## Data and licence",
        data,
        "## Training",
        textwrap.fill(settings, 106),
        listed,
        "## Measured on the held-out images",
        measured,
        "## Limits",
        limits,
        "## Reproduce",
        CARD_REPRODUCE.format(seed, packages),
    ]
    return "\n\n".join(parts) + "\n"


def train(recipe: Recipe, images: digits.Images, labels: digits.Labels, seed: int) -> onnx.ModelProto:
    """Train all members of a recipe (seeds seed, seed + 1, ...) and build the FP32 model."""
    return build(recipe, [fit(images, labels, recipe, seed + member) for member in range(recipe.members)])


def inner_report(seed: int) -> str:
    """Markdown for tuning: as the cards, but trained and measured inside the training split."""
    images, labels = digits.training()
    rest, part = digits.stratified_split(labels, 0.28, seed)
    edge = reader(quantize(train(EDGE, images[rest], labels[rest], seed), images[rest]))
    expert = reader(train(EXPERT, images[rest], labels[rest], seed))
    columns = [digits.accuracies(model, images[part], labels[part]) for model in (edge, expert)]
    # The gate is set and measured on the same images here: there are too few for two sets.
    _, limit = digits.gate(edge, expert, images[part])
    rates = digits.gate_rates(edge, limit, images[part], labels[part])
    return table(["edge", "expert", "escalated", "kept but wrong"], [*columns, *rates])


def produce(out: Path, seed: int) -> None:
    """Train on the training split, measure the very models that are written, write and print the cards."""
    images, labels = digits.training()
    test_images, test_labels = digits.held_out()
    counts = (len(images), len(test_images))
    edge_fp32, expert = train(EDGE, images, labels, seed), train(EXPERT, images, labels, seed)
    edge = quantize(edge_fp32, images)
    fp32, int8, large = [
        digits.accuracies(reader(model), test_images, test_labels) for model in (edge_fp32, edge, expert)
    ]
    gate = gate_report(reader(edge), reader(expert), test_images, test_labels)
    measured = table(["FP32", "INT8 (shipped)", "digits-expert"], [fp32, int8, large]) + CARD_GATE + gate
    facts = [
        f"INT8 QDQ by onnxruntime: per-channel, symmetric, MinMax over the {counts[0]} training images",
        f"size: {edge.ByteSize():,} bytes, {edge_fp32.ByteSize():,} before quantization",
    ]
    text = card(EDGE, edge_fp32, seed, counts, facts=facts, measured=measured)
    save(out / EDGE.name, edge.SerializeToString(), EDGE, text)
    facts = ["FP32, not quantized", f"size: {expert.ByteSize():,} bytes"]
    measured = table(["FP32 (shipped)"], [large])
    text = card(EXPERT, expert, seed, counts, facts=facts, measured=measured)
    save(out / EXPERT.name, expert.SerializeToString(), EXPERT, text)


def main() -> None:
    """Command line: see the top of this file."""
    parser = argparse.ArgumentParser(description="Train the demo's digit readers.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets")
    parser.add_argument("--inner", action="store_true", help="tune inside the training split; write nothing")
    arguments = parser.parse_args()
    if arguments.inner:
        print(inner_report(arguments.seed))
    else:
        produce(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
