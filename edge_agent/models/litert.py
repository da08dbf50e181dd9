"""Runner `litert`: TensorFlow Lite files with LiteRT on the CPU (XNNPACK).

Where the manifest says float32 and the file has quantized inputs or outputs, the runner converts by the scale and zero
point in the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.models import RunnerInfo, RunnerOptions, Tensors
from shared.errors import ModelError
from shared.models.bundle import Bundle
from shared.models.manifest import TensorSpec

FREE = -1


class _Tensor:
    """A tensor of the file and how the manifest sees it."""

    def __init__(self, spec: TensorSpec, details: dict[str, Any]) -> None:
        self.name, self.index = spec.name, int(details["index"])
        self.outside, self.inside = np.dtype(spec.dtype), np.dtype(details["dtype"])
        self.shape = tuple(int(side) for side in details["shape_signature"])
        scale, zero = details["quantization"]
        self._scale, self._zero = float(scale), int(zero)
        if self.outside != self.inside and not (self._scale and self.outside == np.float32):
            raise ModelError(f"'{spec.name}' is {self.inside} in the file and {spec.dtype} in the manifest")

    def check(self, value: NDArray[Any] | None) -> NDArray[Any]:
        """The value as the manifest has it; raises ModelError."""
        if value is None:
            raise ModelError(f"input '{self.name}' is missing")
        fits = value.ndim == len(self.shape) and all(
            want in (FREE, side) for want, side in zip(self.shape, value.shape, strict=True)
        )
        if value.dtype != self.outside or not fits:
            raise ModelError(
                f"input '{self.name}' is {value.dtype} {list(value.shape)}, the model takes {self.outside} "
                f"{list(self.shape)}"
            )
        return value

    def to_file(self, value: NDArray[Any]) -> NDArray[Any]:
        """The value as the file has it."""
        if self.outside == self.inside:
            return value
        limits = np.iinfo(self.inside)
        found: NDArray[Any] = np.clip(np.rint(value / self._scale) + self._zero, limits.min, limits.max)
        return found.astype(self.inside)

    def from_file(self, value: NDArray[Any]) -> NDArray[Any]:
        """The value as the manifest has it."""
        if self.outside == self.inside:
            return value
        found: NDArray[Any] = (value.astype(np.float32) - np.float32(self._zero)) * np.float32(self._scale)
        return found


class LiteRtRunner:
    """Runs one `.tflite` file."""

    def __init__(self, bundle: Bundle, variant: str, options: RunnerOptions) -> None:
        manifest = bundle.manifest
        self._name, self._precision = manifest.name, manifest.variant(variant).precision
        model = bundle.model(variant)
        try:
            from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ModelError(f"LiteRT is not installed ({error}): pip install 'tidegate[litert]'") from error
        try:
            self._interpreter: Any = Interpreter(model_content=model, num_threads=options.threads)
            self._interpreter.allocate_tensors()
        except Exception as error:
            raise ModelError(f"{self._name}: LiteRT cannot load it: {_short(error)}") from error
        self._inputs = self._tensors(list(manifest.inputs), "input")
        self._outputs = self._tensors(list(manifest.outputs), "output")
        self._size = 0

    def _tensors(self, specs: list[TensorSpec], side: str) -> list[_Tensor]:
        """The tensors of the manifest: by the names of the signature, of the tensors, or else by their order."""
        details = getattr(self._interpreter, f"get_{side}_details")()
        named = {row["name"]: row for row in details} | self._signature(side)
        found = [named.get(spec.name) for spec in specs]
        if None in found and len(details) == len(specs):
            found = list(details)
        missing = ", ".join(spec.name for spec, row in zip(specs, found, strict=True) if row is None)
        if missing:
            names = ", ".join(sorted(named))
            raise ModelError(f"{self._name}: the file has no {side} {missing}, as its manifest says; it has {names}")
        try:
            return [_Tensor(spec, row) for spec, row in zip(specs, found, strict=True) if row is not None]
        except ModelError as error:
            raise ModelError(f"{self._name}: {error}") from error

    def _signature(self, side: str) -> dict[str, Any]:
        for key in self._interpreter.get_signature_list():
            found = getattr(self._interpreter.get_signature_runner(key), f"get_{side}_details")()
            return {name: row | {"index": row["index"]} for name, row in found.items()}
        return {}

    def describe(self) -> RunnerInfo:
        first = self._inputs[0].shape[0] if self._inputs[0].shape else 1
        return RunnerInfo(provider="LiteRT", precision=self._precision, device="CPU", batch=max(first, 0))

    def warm_up(self) -> None:
        """Nothing to do: the task's blank input is the first one."""

    def run(self, batch: Tensors) -> dict[str, Any]:
        try:
            values = [tensor.check(batch.get(tensor.name)) for tensor in self._inputs]
            self._resize(values)
            for tensor, value in zip(self._inputs, values, strict=True):
                self._interpreter.set_tensor(tensor.index, tensor.to_file(value))
            self._interpreter.invoke()
            return {
                tensor.name: tensor.from_file(self._interpreter.get_tensor(tensor.index)) for tensor in self._outputs
            }
        except Exception as error:
            raise ModelError(f"{self._name}: {_short(error)}") from error

    def _resize(self, values: list[NDArray[Any]]) -> None:
        """Allocate for another batch, if the file leaves it open."""
        size = values[0].shape[0]
        if size == self._size or FREE not in self._inputs[0].shape:
            return
        for tensor, value in zip(self._inputs, values, strict=True):
            self._interpreter.resize_tensor_input(tensor.index, list(value.shape))
        self._interpreter.allocate_tensors()
        self._size = size

    def close(self) -> None:
        self._interpreter = None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def open_runner(bundle: Bundle, variant: str, options: RunnerOptions) -> LiteRtRunner:
    """Entry point `litert`."""
    return LiteRtRunner(bundle, variant, options)
