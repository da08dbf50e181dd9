"""Reads an ONNX file, checks that devices can run it, and simplifies it.

Simplified means: batch size and shapes settled, an operator set that quantization knows, constants folded by ONNX
Runtime's own basic optimisations, which only use standard operators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from cloud_hub.models.errors import BuildError
from cloud_hub.models.simplify import (
    MAX_IR,
    STANDARD,
    dtype_of,
    first_line,
    graph_inputs,
    make_batch_free,
    session_of,
    sides_of,
    simplified_graph,
)
from shared.models.manifest import FREE, DType, TensorSpec

MAX_BYTES = 1 << 30
OPSET, MIN_OPSET = 17, 13
"""Older operator sets are converted: quantization per channel needs 13. 17 is read by every runtime that we support."""
DTYPES: dict[int, DType] = {
    TensorProto.UINT8: "uint8", TensorProto.INT8: "int8", TensorProto.INT32: "int32", TensorProto.INT64: "int64",
    TensorProto.FLOAT16: "float16", TensorProto.FLOAT: "float32", TensorProto.BOOL: "bool",
}  # fmt: skip
QUANTIZED = {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A checked model. `batch` is how many inputs it takes at once, 0: any number. `notes` say what was changed.

    `content` is its file, the variant `reference` of the bundle; `model` is None where it is not ONNX.
    """

    content: bytes
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    batch: int
    model: onnx.ModelProto | None = None
    reference: str = "fp32"
    notes: list[str] = field(default_factory=list)


def read_graph(path: Path, shape: Sequence[int] = (), constants: Mapping[str, Sequence[float]] | None = None) -> Graph:
    """The model in `path`, checked and simplified; `shape` (without batch) settles free sides of its only input.

    `constants` are the values of inputs that no task feeds, such as a scale factor. Raises BuildError.
    """
    notes: list[str] = []
    model = _upgrade_opset(path, _load(path), notes)
    _check_operators(path, model)
    for name, values in (constants or {}).items():
        _make_constant(path, model, name, values)
    _fix_shapes(path, model, shape)
    model = simplified_graph(make_batch_free(path, model, notes), notes)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return _described(path, model, notes)


def _load(path: Path) -> onnx.ModelProto:
    """The model with its external data."""
    cure = "Export the model again and check that the file was copied whole"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BuildError(str(path), f"is larger than {MAX_BYTES >> 20} MB", "Give a model that a device can hold")
        model = onnx.load(path, load_external_data=False)
        _check_external(path, model)
        load_external_data_for_model(model, str(path.parent))
        _drop_external_locations(model)
        onnx.checker.check_model(model, full_check=True)
    except OSError as error:
        raise BuildError(str(path), f"cannot be read ({error.strerror or error})", "Give an ONNX file") from error
    except DecodeError as error:
        raise BuildError(str(path), "is not an ONNX file, or is damaged or truncated", cure) from error
    except BuildError:
        raise
    except Exception as error:  # the checker has many classes; MemoryError aside, all mean that the graph is unsound
        raise BuildError(str(path), f"is not a valid ONNX model ({first_line(error)})", cure) from error
    return model


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    constants = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    return [*model.graph.initializer, *constants]


def _check_external(path: Path, model: onnx.ModelProto) -> None:
    """External data must be in files beside the model, or below."""
    root = path.parent.resolve()
    for tensor in filter(uses_external_data, _tensors(model)):
        location = ExternalDataInfo(tensor).location
        file = (root / location).resolve()
        if not file.is_relative_to(root):
            raise BuildError(str(path), f"its data file '{location}' is outside of its folder", "Export it again")
        if not file.is_file():
            cure = "Copy it beside the model, or export the model as one file"
            raise BuildError(str(path), f"its data file '{location}' is missing", cure)


def _drop_external_locations(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model):
        if tensor.HasField("data_location"):
            del tensor.external_data[:]
            tensor.ClearField("data_location")


def _upgrade_opset(path: Path, model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """The model in an operator set that quantization knows."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except Exception as error:
            cure = f"Export the model with opset {OPSET}"
            raise BuildError(str(path), f"opset {opset} cannot be converted ({first_line(error)})", cure) from error
        notes.append(f"operator set {opset} converted to {OPSET}")
    model.ir_version = min(model.ir_version, MAX_IR)
    return model


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    custom = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in STANDARD})
    if custom:
        cure = "Export the model with standard operators, for example without a fused post-processing"
        raise BuildError(str(path), f"has operators that devices do not know: {', '.join(custom)}", cure)
    if QUANTIZED & {node.op_type for node in model.graph.node}:
        raise BuildError(str(path), "is quantized already", "Give the model in float: the build quantizes it")


def _make_constant(path: Path, model: onnx.ModelProto, name: str, values: Sequence[float]) -> None:
    """Turn an input into an initializer with these values, or one value for all of it; free sides are 1."""
    inputs = {value.name: value for value in graph_inputs(model)}
    if name not in inputs:
        raise BuildError("--constant", f"there is no input '{name}'", f"Inputs: {', '.join(inputs)}")
    sides = [1 if side == FREE else side for side in sides_of(inputs[name])]
    if len(values) not in (1, math.prod(sides)):
        reason = f"'{name}' has {len(values)} numbers, the input is {_format_sides(sides)}"
        raise BuildError("--constant", reason, f"Give one number, or {math.prod(sides)}")
    dtype = helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type)
    array = np.resize(np.asarray(values, np.float64), sides).astype(dtype)
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.input.remove(inputs[name])


def _fix_shapes(path: Path, model: onnx.ModelProto, shape: Sequence[int]) -> None:
    """Set free sides of the only input to `shape`; raises BuildError where sides stay free."""
    inputs = graph_inputs(model)
    if not inputs:
        raise BuildError(str(path), "has no input", "Export it with its input, not as a constant")
    if len(inputs) == 1:
        _fix_shape(path, inputs[0], shape)
        return
    if shape:
        names = ", ".join(value.name for value in inputs)
        raise BuildError("--shape", f"the model has {len(inputs)} inputs ({names})", "Export it with fixed sides")
    for value in inputs:
        if FREE in sides_of(value)[1:]:
            reason = f"input '{value.name}' has free sides: {_format_sides(sides_of(value)[1:])}"
            raise BuildError(str(path), reason, "Export it with fixed sides, or give --constant for inputs like these")


def _fix_shape(path: Path, value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    sides = sides_of(value)[1:]
    settled = list(shape) or sides
    if len(settled) != len(sides) or any(s not in (FREE, w) for s, w in zip(sides, settled, strict=True)):
        cure = "Leave --shape out, or give the input's sides without the batch"
        raise BuildError(
            str(path), f"input '{value.name}' is {_format_sides(sides)}, --shape is {_format_sides(settled)}", cure
        )
    if FREE in settled:
        example = "x".join(str(side if side != FREE else 224) for side in sides)
        reason = f"input '{value.name}' has free sides: {_format_sides(sides)}"
        cure = f"Give the size that the model was trained with, in a form such as --shape {example}"
        raise BuildError(str(path), reason, cure)
    for dimension, side in zip(list(value.type.tensor_type.shape.dim)[1:], settled, strict=True):
        dimension.dim_value = side


def _format_sides(sides: Sequence[int]) -> str:
    return "x".join("?" if side == FREE else str(side) for side in sides) or "one number"


def _described(path: Path, model: onnx.ModelProto, notes: list[str]) -> Graph:
    batch = graph_inputs(model)[0].type.tensor_type.shape.dim[0].dim_value
    outputs = [_spec(path, output, shape) for output, shape in zip(model.graph.output, _measured(model), strict=True)]
    inputs = [
        TensorSpec(name=value.name, shape=tuple(sides_of(value)[1:]), dtype=_dtype(path, value))
        for value in graph_inputs(model)
    ]
    content = model.SerializeToString()
    return Graph(content=content, model=model, inputs=inputs, outputs=outputs, batch=batch, notes=notes)


def _measured(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """The shapes of the outputs for one batch, the batch included."""
    size = graph_inputs(model)[0].type.tensor_type.shape.dim[0].dim_value or 1
    zeros = {value.name: np.zeros((size, *sides_of(value)[1:]), dtype_of(value)) for value in graph_inputs(model)}
    return [np.asarray(output).shape for output in session_of(model).run(None, zeros)]


def _spec(path: Path, value: onnx.ValueInfoProto, measured: tuple[int, ...]) -> TensorSpec:
    """An output without its batch dimension; one of a graph for single inputs may have none."""
    known = sides_of(value) if value.type.tensor_type.HasField("shape") else []
    shape = known if len(known) == len(measured) else [FREE] * len(measured)
    return TensorSpec(name=value.name, shape=tuple(shape[measured[:1] == (1,) :]), dtype=_dtype(path, value))


def _dtype(path: Path, value: onnx.ValueInfoProto) -> DType:
    number = value.type.tensor_type.elem_type
    if number not in DTYPES:
        name = TensorProto.DataType.Name(number)
        cure = f"Cast it to one of {', '.join(DTYPES.values())} in the export"
        raise BuildError(str(path), f"tensor '{value.name}' is {name}", cure)
    return DTYPES[number]
