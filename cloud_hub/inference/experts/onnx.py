"""An expert that runs a verified model bundle with ONNX Runtime, in batches of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from cloud_hub.inference.experts import Opinion
from shared.errors import ModelError
from shared.models.bundle import Bundle, load


class OnnxExpert:
    """A classifier; `name` holds the bundle's name and version."""

    def __init__(self, bundle: Bundle) -> None:
        manifest = self._manifest = bundle.manifest
        choices = ort.SessionOptions()
        choices.intra_op_num_threads = 1
        choices.log_severity_level = 3
        choices.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(bundle.only(".onnx"), choices, providers=["CPUExecutionProvider"])
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"{manifest.name}: ONNX Runtime cannot load it: {str(error)[:300]}") from error
        self.name = f"{manifest.name} {manifest.version}"
        _, height, width = manifest.input.shape
        self.answer((height, width), [bytes(height * width)])

    def answer(self, shape: tuple[int, int], frames: Sequence[bytes]) -> list[Opinion]:
        """Return one opinion for each frame; raises ModelError if the frames do not fit the model."""
        wanted = self._manifest.input
        if (1, *shape) != tuple(wanted.shape):
            raise ModelError(f"{self.name}: frames are {shape}, the model takes {tuple(wanted.shape[1:])}")
        pixels = np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), 1, *shape)
        scaled = pixels.astype(np.float32) * np.float32(wanted.scale)
        try:
            output: Any = self._session.run([self._manifest.output], {wanted.name: scaled})
        except Exception as error:
            raise ModelError(f"{self._manifest.name}: {str(error)[:300]}") from error
        scores = np.asarray(output[0])
        best = scores.argmax(axis=1)
        labels = self._manifest.labels
        return [
            Opinion(label=labels[int(index)], confidence=float(row[index]))
            for index, row in zip(best, scores, strict=True)
        ]


def open_expert(folder: str) -> OnnxExpert:
    """Load the expert in `folder`; raises ModelError."""
    return OnnxExpert(load(Path(folder)))
