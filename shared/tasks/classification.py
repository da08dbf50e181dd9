"""Task `classification`: the label with the largest probability. The margin is top1 - top2.

Options: `activation` makes probabilities of the output: `none` (it holds probabilities), `softmax` or `sigmoid`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shared.errors import ModelError
from shared.models.gate import Result
from shared.models.manifest import Manifest
from shared.tasks import Array
from shared.tasks.base import BaseTask
from shared.tasks.options import choice
from shared.tasks.scores import ACTIVATIONS, bounded, rounded


class Classification(BaseTask):
    """One label for each input; `values` holds its probability as `score`."""

    options = ("activation",)

    def __init__(self, manifest: Manifest, digest: str) -> None:
        super().__init__(manifest, digest)
        if len(manifest.labels) < 2:
            raise ModelError(f"{manifest.name}: a classifier has at least two labels, it has {len(manifest.labels)}")
        self._activation = ACTIVATIONS[choice(manifest, "activation", list(ACTIVATIONS))]

    def postprocess(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> list[Result]:
        """The most probable label of each input."""
        output = self.output(outputs, 0, len(inputs))
        scores = output.reshape(len(inputs), -1).astype(np.float32, copy=False)
        if scores.shape[1] != len(self.manifest.labels):
            raise ModelError(f"{self.manifest.name}: {scores.shape[1]} outputs for {len(self.manifest.labels)} labels")
        return [self._result(row, frame) for row, frame in zip(self._activation(scores), inputs, strict=True)]

    def _result(self, row: Array, frame: Array) -> Result:
        second, first = np.argsort(row)[-2:]
        margin = bounded(float(row[first] - row[second]))
        return Result(
            label=self.manifest.labels[int(first)], margin=margin, digest=self.digest,
            values=rounded({"score": float(row[first])}),
            features=rounded(self.input.features(frame) | {"margin": margin}),
        )  # fmt: skip


def open_task(manifest: Manifest, digest: str) -> Classification:
    """Entry point `classification`."""
    return Classification(manifest, digest)
