"""An expert that runs a verified model bundle with ONNX Runtime, in batches of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from cloud_hub.inference.experts import NO_OPINION, Opinion, Origin
from cloud_hub.inference.experts.kserve import KServeSession
from cloud_hub.models.session import OnnxSession, Session
from cloud_hub.settings.experts import Server
from shared.errors import ModelError
from shared.models.bundle import Bundle, load
from shared.models.gate import Result
from shared.tasks import Array, from_frame, open_task, window_from


class OnnxExpert:
    """Runs the bundle in float32 where it can; `name` holds the bundle's name and version."""

    def __init__(self, bundle: Bundle, *, max_batch: int = 64, session: Session | None = None) -> None:
        manifest = bundle.manifest
        self.name = f"{manifest.name} {manifest.version}"
        variants = manifest.variants_for("onnx")
        variant = next((key for key in variants if manifest.variants[key].precision == "fp32"), "".join(variants[:1]))
        self._task = open_task(manifest, variant)
        self._session = session or OnnxSession(bundle.model(variant), manifest)
        self._max_batch = max_batch
        if session is None:  # a server may be away now
            self._results([self._task.blank()])

    def answer(
        self, shape: tuple[int, ...], frames: Sequence[bytes], *, dtype: str = "uint8", color: str = "gray",
        origins: Sequence[Origin] = (),
    ) -> list[Opinion]:  # fmt: skip
        """Return one opinion for each frame; raises ModelError if the frames do not fit the model."""
        if min(shape) < 1:
            raise ModelError(f"{self.name}: frames are {shape}, the model takes pixels or samples")
        results = self._results([_input(frame, shape, dtype, color) for frame in frames])
        return [_opinion(result) for result in results]

    def _results(self, frames: list[Array]) -> list[Result]:
        """Results of frames, in batches as large as the graph takes."""
        size = self._session.batch or min(len(frames), self._max_batch)
        results: list[Result] = []
        for start in range(0, len(frames), size):
            part = frames[start : start + size]
            padded = part + part[-1:] * ((self._session.batch or len(part)) - len(part))
            outputs = self._session.run(self._task.preprocess(padded))
            results += self._task.postprocess(outputs, padded)[: len(part)]
        return results


def _opinion(result: Result) -> Opinion:
    """The result as an answer; none if the model gave no numbers."""
    if not 0.0 <= result.margin <= 1.0 or not all(map(math.isfinite, result.values.values())):
        return NO_OPINION
    confidence = min(max(result.values.get("score", result.margin), 0.0), 1.0)
    return Opinion(label=result.label, confidence=confidence, values=result.values, boxes=result.boxes)


def _input(data: bytes, shape: tuple[int, ...], dtype: str, color: str) -> Array:
    """A frame as the task takes it, or a window of metrics."""
    if dtype == "uint8":
        return from_frame(data, (shape[0], shape[1], shape[2] if len(shape) > 2 else 1), color)
    return window_from(data, (shape[0], shape[1]))


def open_expert(
    folder: str, *, max_batch: int = 64, server: Server | None = None, place: str = "experts.servers"
) -> OnnxExpert:  # fmt: skip
    """Load the expert in `folder`, which runs on `server` if one is given; raises ModelError, ConfigError."""
    bundle = load(Path(folder))
    session = KServeSession(place, server, bundle.manifest) if server is not None else None
    return OnnxExpert(bundle, max_batch=max_batch, session=session)
