"""How each variant is made from the reference graph.

`cpu-int8`       Q/DQ, per channel, uint8 activations, int32 biases: the form that ONNX Runtime's CPU kernels fuse best
`tensorrt-int8`  explicit Q/DQ, symmetric, float biases: the only form that TensorRT 10 and 11 parse
`fp16`           float16 weights and computation, float32 at the edges

Only what lies between the first and the last convolution or matrix product is quantized: before it is preprocessing,
after it are softmax, boxes and scores, whose ranges do not fit into one scale.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from shared.tasks import Array, Tensors

HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
LIGHT = {
    "Relu",
    "Clip",
    "Add",
    "Concat",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Flatten",
    "Reshape",
    "Transpose",
}
"""What may stand between heavy nodes in INT8. Others (HardSwish, Sigmoid, Mul) cost more in Q/DQ than they save, and
TensorRT fuses them in float16."""
TENSORRT = {
    "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False, "AddQDQPairToWeight": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One way to quantize; a later one is tried when the one before loses too much."""

    text: str
    method: CalibrationMethod = CalibrationMethod.MinMax
    keep_last: bool = False


ATTEMPTS = (
    Attempt(text="all layers"),
    Attempt(text="last layers in float", keep_last=True),
    Attempt(text="last layers in float, ranges clipped", method=CalibrationMethod.Percentile, keep_last=True),
)


class CalibrationFeed(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
    """Gives batches of input tensors to the quantizer."""

    def __init__(self, batches: Iterable[Tensors]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Tensors | None:  # type: ignore[override]
        """The next batch, or None at the end."""
        return next(self._batches, None)


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The reference graph as the quantizer wants it: with inferred shapes, and a name for each node."""
    named = onnx.ModelProto.FromString(model.SerializeToString())
    for number, node in enumerate(named.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "model.onnx")
        quant_pre_process(named, target, skip_symbolic_shape=True, skip_optimization=True)
        return onnx.load(target)


def quantized(model: onnx.ModelProto, feed: Iterable[Tensors], attempt: Attempt, *, tensorrt: bool) -> onnx.ModelProto:
    """The INT8 form of a prepared graph, with ranges from `feed`."""
    activations = QuantType.QInt8 if tensorrt else QuantType.QUInt8
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        with contextlib.redirect_stdout(io.StringIO()):  # the calibrator prints what it does
            quantize_static(
                source, target, CalibrationFeed(feed), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=activations, weight_type=QuantType.QInt8, calibrate_method=attempt.method,
                op_types_to_quantize=sorted(HEAVY | LIGHT), nodes_to_exclude=_excluded_nodes(model, attempt.keep_last),
                extra_options=TENSORRT if tensorrt else {},
            )  # fmt: skip
        result = onnx.load(target)
    del result.opset_import[:]
    result.opset_import.extend(model.opset_import)
    result.ir_version = model.ir_version
    onnx.checker.check_model(result, full_check=True)
    return result


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16, with inputs and outputs as they were."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    result: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    _sort_nodes(result.graph)
    onnx.checker.check_model(result)
    return result


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Put each node behind those that it reads: the conversion appends its casts at the end."""
    waiting = list(graph.node)
    available = {tensor.name for tensor in (*graph.input, *graph.initializer)} | {""}
    produced = {name for node in waiting for name in node.output}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = [node for node in waiting if all(name in available or name not in produced for name in node.input)]
        if not ready:
            raise ValueError("the graph has a cycle")
        ordered += ready
        available.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not any(node is other for other in ready)]
    del graph.node[:]
    graph.node.extend(ordered)


def can_quantize(model: onnx.ModelProto | None, attempt: Attempt = ATTEMPTS[0]) -> bool:
    """Whether an attempt leaves anything to quantize of a prepared graph."""
    if model is None:
        return False
    outside = set(_excluded_nodes(model, attempt.keep_last))
    return any(node.op_type in HEAVY and node.name not in outside for node in model.graph.node)


def _excluded_nodes(model: onnx.ModelProto, keep_last: bool) -> list[str]:
    """Names of the nodes before the first and behind the last heavy ones; `keep_last`: and of the last ones."""
    nodes = list(model.graph.node)
    above, below = _tensors_next_to_heavy(nodes), _tensors_next_to_heavy(nodes[::-1], backward=True)
    constants = {tensor.name for tensor in model.graph.initializer}
    inside = [
        node for node in nodes
        if (node.op_type in HEAVY and not (keep_last and not _has_heavy_below(node, below)))
        or (node.op_type in LIGHT and _any(node.input, above) and _any(node.output, below)
            and not (node.op_type in {"Add", "Concat"} and _any(node.input, constants)))
    ]  # fmt: skip
    kept = {node.name for node in inside}
    return [node.name for node in nodes if node.name not in kept]


def _tensors_next_to_heavy(nodes: Sequence[onnx.NodeProto], *, backward: bool = False) -> set[str]:
    """Tensors that a heavy node lies above; `backward`: below. `nodes` in that order."""
    reached: set[str] = set()
    for node in nodes:
        before, after = (node.output, node.input) if backward else (node.input, node.output)
        if node.op_type in HEAVY or _any(before, reached):
            reached.update(after)
    return reached


def _any(names: Sequence[str], among: set[str]) -> bool:
    return any(name in among for name in names)


def _has_heavy_below(node: onnx.NodeProto, below: set[str]) -> bool:
    return _any(node.output, below)


def activation_ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """(low, high) that each quantized activation can hold, by tensor."""
    constants: Mapping[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return dict(_ranges(model, constants))


def _ranges(model: onnx.ModelProto, constants: Mapping[str, Array]) -> Iterator[tuple[str, tuple[float, float]]]:
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants or node.input[1] not in constants:
            continue
        scale = float(np.ravel(constants[node.input[1]])[0])
        zero = constants.get(node.input[2] if len(node.input) > 2 else "", np.zeros(1, np.uint8)).ravel()[0]
        limits = np.iinfo(zero.dtype)
        low, high = ((limit - int(zero)) * scale for limit in (limits.min, limits.max))
        yield node.input[0], (round(low, 6), round(high, 6))
