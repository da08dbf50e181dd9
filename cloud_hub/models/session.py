"""Sessions on the CPU, for experts and for the evaluation of variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from shared.errors import ModelError
from shared.models.manifest import Manifest
from shared.tasks import Array, Tensors


class Session(Protocol):
    """Runs a model. `batch` is how many inputs it takes at once; 0 is any number."""

    batch: int

    def run(self, tensors: Mapping[str, Array]) -> Tensors:
        """The output tensors by name; raises ModelError."""
        ...


def open_session(content: bytes, manifest: Manifest, variant: str) -> Session:
    """A session for the file of a variant; raises ModelError, or ModuleNotFoundError where LiteRT is not installed."""
    if manifest.variant(variant).format == "tflite":
        from cloud_hub.models.tflite import TfliteSession  # noqa: PLC0415 - extra `litert`

        return TfliteSession(content, manifest)
    return OnnxSession(content, manifest)


class OnnxSession:
    """Runs a model in one thread that does not spin. `batch` is how many inputs it takes at once; 0 is any number."""

    def __init__(self, model: bytes, manifest: Manifest) -> None:
        self._name, self.batch = manifest.name, manifest.batch
        self._outputs = [spec.name for spec in manifest.outputs]
        choices = ort.SessionOptions()
        choices.intra_op_num_threads = 1
        choices.log_severity_level = 3
        choices.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(model, choices, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{self._name}: ONNX Runtime cannot load it: {str(error)[:300]}") from error

    def run(self, tensors: Mapping[str, Array]) -> Tensors:
        """The output tensors by name; raises ModelError."""
        try:
            outputs: Any = self._session.run(self._outputs, dict(tensors))
        except Exception as error:
            raise ModelError(f"{self._name}: {str(error)[:300]}") from error
        return {name: np.asarray(value) for name, value in zip(self._outputs, outputs, strict=True)}
