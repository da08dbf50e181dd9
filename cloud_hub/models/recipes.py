"""How each variant is made from the reference graph.

`cpu-int8`       Q/DQ, per channel, uint8 activations, int32 biases: the form that ONNX Runtime's CPU kernels fuse best
`tensorrt-int8`  explicit Q/DQ, symmetric, float biases: the only form that TensorRT 10 and 11 parse
`fp16`           float16 weights and computation, float32 at the edges

Which nodes are quantized is chosen in `selection`.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from cloud_hub.models.selection import HEAVY, LIGHT, quantized_nodes
from shared.tasks import Array, Tensors

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
    chosen = quantized_nodes(model, keep_last=attempt.keep_last)
    excluded = [node.name for node in model.graph.node if node.name not in chosen]
    activations = QuantType.QInt8 if tensorrt else QuantType.QUInt8
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        with contextlib.redirect_stdout(io.StringIO()):  # the calibrator prints what it does
            quantize_static(
                source, target, CalibrationFeed(feed), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=activations, weight_type=QuantType.QInt8, calibrate_method=attempt.method,
                op_types_to_quantize=sorted(HEAVY | LIGHT), nodes_to_exclude=excluded,
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
    return model is not None and bool(quantized_nodes(model, keep_last=attempt.keep_last))


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
