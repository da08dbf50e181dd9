"""TensorFlow Lite files that people already have: read, and run with LiteRT for evaluation. Extra `litert`.

A quantized file's int8 tensors are float32 for the task, converted by the scale and zero point in the file, as the
runner on the device does; uint8 inputs are pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cloud_hub.models.errors import BuildError
from cloud_hub.models.graph import Graph
from shared.errors import ModelError
from shared.models.manifest import FREE, Manifest, TensorSpec
from shared.tasks import Array, Tensors

MAX_BYTES = 1 << 30
QUANTIZED = (np.dtype(np.int8), np.dtype(np.uint8))


def read_tflite(path: Path) -> Graph:
    """The model in `path`; raises BuildError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BuildError(str(path), f"is larger than {MAX_BYTES >> 20} MB", "Give a model that a device can hold")
        content = path.read_bytes()
    except OSError as error:
        raise BuildError(str(path), f"cannot be read ({error.strerror or error})", "Give a .tflite file") from error
    try:
        interpreter = _interpreter(content)
    except ModelError as error:
        raise BuildError(str(path), str(error), "Convert the model again and check that it was copied whole") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1:
        raise BuildError(str(path), f"has {len(inputs)} inputs, a task feeds one", "Convert it with one input")
    spec = _spec(inputs[0], pixels=True)
    if FREE in spec.shape:
        raise BuildError(str(path), f"input '{spec.name}' has free sides", "Convert it with a fixed input shape")
    return Graph(
        content=content, inputs=[spec], outputs=[_spec(details) for details in outputs],
        batch=max(int(inputs[0]["shape_signature"][0]), 0), reference=_key(interpreter),
    )  # fmt: skip


def _interpreter(content: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - extra `litert`

    try:
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"LiteRT cannot load it ({' '.join(str(error).split())[:200]})") from error
    return interpreter


def _spec(details: Mapping[str, Any], *, pixels: bool = False) -> TensorSpec:
    """A tensor as the task sees it; `pixels`: uint8 stays uint8."""
    dtype = np.dtype(details["dtype"])
    if details["quantization"][0] and dtype in QUANTIZED and not (pixels and dtype == np.uint8):
        dtype = np.dtype(np.float32)
    shape = tuple(int(side) for side in details["shape_signature"][1:])
    return TensorSpec(name=str(details["name"]), shape=shape, dtype=dtype.name)


def _key(interpreter: Any) -> str:
    """`tflite-int8` when most tensors are 8 bits wide, else `tflite-fp32`."""
    kinds = [np.dtype(details["dtype"]) for details in interpreter.get_tensor_details()]
    return "tflite-int8" if 2 * sum(kind in QUANTIZED for kind in kinds) > len(kinds) else "tflite-fp32"


class TfliteSession:
    """Runs a TensorFlow Lite file in one thread. `batch` is how many inputs it takes at once; 0 is any number."""

    def __init__(self, content: bytes, manifest: Manifest) -> None:
        self._name, self.batch, self._interpreter = manifest.name, manifest.batch, _interpreter(content)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input, self._spec = inputs[0], manifest.inputs[0]
        named = {str(details["name"]): details for details in outputs}
        try:
            self._outputs = {spec.name: named[spec.name] for spec in manifest.outputs}
        except KeyError as error:
            raise ModelError(f"{self._name}: the file has no output {error}") from error

    def run(self, tensors: Mapping[str, Array]) -> Tensors:
        """The output tensors by name; raises ModelError."""
        value = tensors[self._spec.name]
        try:
            if list(value.shape) != list(self._interpreter.get_input_details()[0]["shape"]):
                self._interpreter.resize_tensor_input(self._input["index"], list(value.shape))
                self._interpreter.allocate_tensors()
            self._interpreter.set_tensor(self._input["index"], _to_file(value, self._input))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{self._name}: {' '.join(str(error).split())[:300]}") from error
        return {
            name: _from_file(self._interpreter.get_tensor(row["index"]), row) for name, row in self._outputs.items()
        }


def _to_file(value: Array, details: Mapping[str, Any]) -> Array:
    inside = np.dtype(details["dtype"])
    if value.dtype == inside:
        return value
    scale, zero = details["quantization"]
    limits = np.iinfo(inside)
    return np.asarray(np.clip(np.rint(value / scale) + zero, limits.min, limits.max), inside)


def _from_file(value: Array, details: Mapping[str, Any]) -> Array:
    scale, zero = details["quantization"]
    return (value.astype(np.float32) - np.float32(zero)) * np.float32(scale) if scale else value
