"""An expert that runs a verified model bundle with ONNX Runtime, in batches of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cloud_hub.inference.experts import Opinion
from cloud_hub.models.session import OnnxSession
from shared.bundle import Bundle, load
from shared.errors import ModelError
from shared.gate import Result
from shared.tasks import Array, from_frame, open_task


class OnnxExpert:
    """Runs the first variant of the bundle that names the runner `onnx`; `name` holds the bundle's name and version."""

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.name = f"{manifest.name} {manifest.version}"
        variant = next(iter(manifest.variants_for("onnx")), "")
        self._task = open_task(manifest, variant)
        self._session = OnnxSession(bundle.model(variant), manifest)
        self._results([self._task.blank()])

    def answer(self, shape: tuple[int, ...], frames: Sequence[bytes]) -> list[Opinion]:
        """Return one opinion for each frame; raises ModelError if the frames do not fit the model."""
        height, width, channels = (*shape, 1) if len(shape) == 2 else shape
        if min(height, width, channels) < 1:
            raise ModelError(f"{self.name}: frames are {shape}, the model takes pixels")
        results = self._results([from_frame(frame, (height, width, channels)) for frame in frames])
        return [
            Opinion(label=result.label, confidence=result.values.get("score", max(result.margin, 0.0)))
            for result in results
        ]

    def _results(self, frames: list[Array]) -> list[Result]:
        """Results of frames, in batches as large as the graph takes."""
        size = self._session.batch or len(frames)
        results: list[Result] = []
        for start in range(0, len(frames), size):
            part = frames[start : start + size]
            padded = part + part[-1:] * (size - len(part))
            outputs = self._session.run(self._task.preprocess(padded))
            results += self._task.postprocess(outputs, padded)[: len(part)]
        return results


def open_expert(folder: str) -> OnnxExpert:
    """Load the expert in `folder`; raises ModelError."""
    return OnnxExpert(load(Path(folder)))
