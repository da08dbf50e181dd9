"""Task `classification`: the label with the largest probability. The margin is top1 - top2.

Options: `activation` makes probabilities of the output: `none` (it holds probabilities), `softmax` or `sigmoid`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from shared.errors import ModelError
from shared.gate import Result
from shared.manifest import Manifest
from shared.tasks import Array, Tensors, images
from shared.tasks.options import check_known, choice, only_input, output
from shared.tasks.scores import bounded, rounded, sigmoid, softmax

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"none": np.asarray, "softmax": softmax, "sigmoid": sigmoid}


class Classification:
    """One label for each frame; `values` holds its probability as `score`."""

    def __init__(self, manifest: Manifest, digest: str) -> None:
        if len(manifest.labels) < 2:
            raise ModelError(f"{manifest.name}: a classifier has at least two labels, it has {len(manifest.labels)}")
        check_known(manifest, ("activation",))
        self._manifest, self._digest = manifest, digest
        self._activation = ACTIVATIONS[choice(manifest, "activation", list(ACTIVATIONS))]
        self._input = images.ImageInput(manifest, only_input(manifest))

    def preprocess(self, inputs: Sequence[Array]) -> Tensors:
        return {self._input.spec.name: self._input.tensor(inputs)}

    def postprocess(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> list[Result]:
        found = output(self._manifest, outputs, self._manifest.outputs[0].name, len(inputs))
        scores = found.reshape(len(inputs), -1).astype(np.float32)
        labels = self._manifest.labels
        if scores.shape[1] != len(labels):
            raise ModelError(f"{self._manifest.name}: {scores.shape[1]} outputs for {len(labels)} labels")
        return [self._result(row, frame) for row, frame in zip(self._activation(scores), inputs, strict=True)]

    def blank(self) -> Array:
        return self._input.blank()

    def _result(self, row: Array, frame: Array) -> Result:
        second, first = np.argsort(row)[-2:]
        margin = bounded(float(row[first] - row[second]))
        return Result(
            label=self._manifest.labels[int(first)], margin=margin, digest=self._digest,
            values=rounded({"score": float(row[first])}),
            features=rounded(images.features(frame) | {"margin": margin}),
        )  # fmt: skip


def open_task(manifest: Manifest, digest: str) -> Classification:
    """Entry point `classification`."""
    return Classification(manifest, digest)
