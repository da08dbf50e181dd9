"""Task `anomaly`: a score for each input, `anomaly` above the threshold and `normal` up to it.

The score is the model's output (the largest value of an anomaly map), or the mean square of what an autoencoder did
not reproduce. The margin is the distance d of the score from the threshold as d / (d + scale).

Options: `threshold` (required), `scale` (default: the threshold), `score`: `output` or `reconstruction`, `reduce` of a
map: `max` or `mean`. Two labels of the manifest replace `normal` and `anomaly`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shared.errors import ModelError
from shared.models.gate import Result
from shared.models.manifest import Manifest
from shared.tasks import Array
from shared.tasks.base import BaseTask
from shared.tasks.options import choice, number, optional_number
from shared.tasks.scores import distance_margin, rounded

LABELS = ["normal", "anomaly"]


class Anomaly(BaseTask):
    """`values` holds the `score`."""

    options = ("threshold", "scale", "score", "reduce")

    def __init__(self, manifest: Manifest, digest: str) -> None:
        super().__init__(manifest, digest)
        threshold = optional_number(manifest, "threshold")
        if threshold is None:
            raise ModelError(f"{manifest.name}: task_options.threshold is missing, the largest normal score")
        if len(manifest.labels) not in (0, 2):
            raise ModelError(f"{manifest.name}: an anomaly model has two labels, the normal one first, or none")
        self._threshold, self._labels = threshold, manifest.labels or LABELS
        self._scale = number(manifest, "scale", abs(threshold) or 1.0, 1e-12, 1e30)
        self._reconstruction = choice(manifest, "score", ("output", "reconstruction")) == "reconstruction"
        if self._reconstruction and len(manifest.inputs) > 1:
            raise ModelError(f"{manifest.name}: task_options.score = 'reconstruction' is for models with one input")
        self._mean = choice(manifest, "reduce", ("max", "mean")) == "mean"

    def scores(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
        """The score of each input [n]."""
        output = self.output(outputs, 0, len(inputs)).astype(np.float32, copy=False)
        if self._reconstruction:
            (tensor,) = self.input.tensors(inputs).values()
            if tensor.shape != output.shape:
                raise ModelError(f"{self.manifest.name}: output {output.shape} does not reproduce input {tensor.shape}")
            return np.asarray(np.square(output - tensor).reshape(len(inputs), -1).mean(axis=1))
        flat = output.reshape(len(inputs), -1)
        return np.asarray(flat.mean(axis=1) if self._mean else flat.max(axis=1))

    def postprocess(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> list[Result]:
        """Score and label of each input."""
        scores = self.scores(outputs, inputs)
        return [self._result(float(score), value) for score, value in zip(scores, inputs, strict=True)]

    def _result(self, score: float, value: Array) -> Result:
        margin = distance_margin(score, self._threshold, self._scale)
        return Result(
            label=self._labels[int(score > self._threshold)], margin=margin, digest=self.digest,
            values=rounded({"score": score}), features=rounded(self.input.features(value) | {"margin": margin}),
        )  # fmt: skip


def open_task(manifest: Manifest, digest: str) -> Anomaly:
    """Entry point `anomaly`."""
    return Anomaly(manifest, digest)
