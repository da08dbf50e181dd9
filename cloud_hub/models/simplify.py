"""Settles the batch size of an ONNX graph and folds its constants, with ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from cloud_hub.models.errors import BuildError
from shared.models.manifest import FREE

STANDARD = {"", "ai.onnx", "ai.onnx.ml"}
MAX_IR = 10
"""The newest IR version that onnxruntime 1.20 reads."""


def first_line(error: Exception) -> str:
    """The first line of a library's error text, which may be long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs that are not initializers."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def sides_of(value: onnx.ValueInfoProto) -> list[int]:
    """The dimensions of a tensor, -1 where free."""
    return [d.dim_value if d.dim_value > 0 else FREE for d in value.type.tensor_type.shape.dim]


def session_of(model: onnx.ModelProto, optimised: Path | None = None) -> ort.InferenceSession:
    """A session on the CPU; with `optimised` it writes the graph after basic optimisations there."""
    choices = ort.SessionOptions()
    choices.log_severity_level = 4
    choices.intra_op_num_threads = 1
    if optimised is not None:
        choices.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        choices.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(model.SerializeToString(), choices, providers=["CPUExecutionProvider"])


def dtype_of(value: onnx.ValueInfoProto) -> np.dtype:
    """The numpy dtype of a tensor."""
    return helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def make_batch_free(path: Path, model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """The model with any batch size, if it still gives the same answers; else as it was."""
    fixed = _fixed_batch(path, model)
    freed: onnx.ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    del freed.graph.value_info[:]
    for tensor in (*graph_inputs(freed), *freed.graph.output):
        if tensor.type.tensor_type.shape.dim:
            tensor.type.tensor_type.shape.dim[0].ClearField("dim_value")
            tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    if _takes_batches(freed):
        if fixed:
            notes.append(f"batch size {fixed} made free")
        return freed
    notes.append(f"batch size stays {fixed or 1}: the graph does not take others")
    for value in graph_inputs(model):
        value.type.tensor_type.shape.dim[0].dim_value = fixed or 1
    return model


def _fixed_batch(path: Path, model: onnx.ModelProto) -> int:
    """The batch size of the inputs, 0 if it is free; raises BuildError when they have none, or not the same."""
    sizes: dict[str, int] = {}
    for value in graph_inputs(model):
        if not value.type.tensor_type.shape.dim:
            raise BuildError(str(path), f"input '{value.name}' has no batch dimension", "Export it with one")
        sizes[value.name] = max(value.type.tensor_type.shape.dim[0].dim_value, 0)
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"{name} {size or 'any'}" for name, size in sizes.items())
        raise BuildError(str(path), f"its inputs differ in batch size ({text})", "Export it with one batch dimension")
    return next(iter(sizes.values()))


def _takes_batches(model: onnx.ModelProto) -> bool:
    """Whether a batch of three is answered as each input alone."""
    rng = np.random.default_rng(1)
    batch = {v.name: rng.uniform(0, 1, (3, *sides_of(v)[1:])).astype(dtype_of(v)) for v in graph_inputs(model)}
    try:
        session = session_of(model)
        together = session.run(None, batch)
        alone = [session.run(None, {name: value[i : i + 1] for name, value in batch.items()}) for i in range(3)]
    except Exception:  # noqa: BLE001 - whatever a graph that is bound to its batch size raises
        return False
    pairs = zip(together, *alone, strict=True)
    return all(_same(np.asarray(whole), [np.asarray(part) for part in parts]) for whole, *parts in pairs)


def _same(whole: np.ndarray, parts: list[np.ndarray]) -> bool:
    if any(part.ndim == 0 or len(part) != 1 for part in parts) or whole.shape != (3, *parts[0].shape[1:]):
        return False
    return bool(np.allclose(whole, np.concatenate(parts), rtol=1e-3, atol=1e-4, equal_nan=True))


def simplified_graph(model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """The model after constant folding; as it was when ONNX Runtime used operators of its own."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "model.onnx")
        try:
            session_of(model, target)
            simplified: onnx.ModelProto = onnx.load(target)
        except Exception as error:
            reason = f"ONNX Runtime cannot run it ({first_line(error)})"
            raise BuildError(model.graph.name or "model", reason, "Export it for ONNX Runtime") from error
    if any(node.domain not in STANDARD for node in simplified.graph.node):
        return model
    used = {node.domain if node.domain != "ai.onnx" else "" for node in simplified.graph.node}
    kept = [entry for entry in simplified.opset_import if entry.domain in used]
    del simplified.opset_import[:]
    simplified.opset_import.extend(kept)
    simplified.ir_version = min(simplified.ir_version, MAX_IR)
    before, after = len(model.graph.node), len(simplified.graph.node)
    if after < before:
        notes.append(f"{before} nodes simplified to {after}")
    return simplified
