"""Task `segmentation`: a class for each pixel.

`values` holds the share of the frame that each label covers, `boxes` one box around each label that covers at least
`min_share` of it. The label of a result names those: `crack scratch`, or `none`. The margin is the smaller of two: how
far the shares are from `min_share`, and how sure the model is of its pixels on average.

Options: `background`, the label that is no finding (default: the first); `min_share`, default 0.001; `activation` when
the output holds logits; `threshold` of an output with one channel (two labels), default 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shared.errors import ModelError
from shared.models.gate import Box, Result
from shared.models.manifest import Manifest
from shared.tasks import Array
from shared.tasks.base import BaseTask
from shared.tasks.detection import NONE
from shared.tasks.images import ImageInput, letterbox
from shared.tasks.options import choice, number
from shared.tasks.scores import ACTIVATIONS, INVALID, bounded, ratio_margin, rounded


class Segmentation(BaseTask):
    """Shares and boxes of the labels. `class_map` gives the map itself."""

    options = ("background", "min_share", "activation", "threshold")

    def __init__(self, manifest: Manifest, digest: str) -> None:
        super().__init__(manifest, digest)
        if len(manifest.labels) < 2 or not isinstance(self.input, ImageInput):
            raise ModelError(f"{manifest.name}: a segmentation has an image as input, and two labels or more")
        self._background = choice(manifest, "background", manifest.labels)
        self._min_share = number(manifest, "min_share", 0.001, 0.0, 1.0)
        self._threshold = number(manifest, "threshold", 0.5, 0.0, 1.0)
        self._activation = ACTIVATIONS[choice(manifest, "activation", list(ACTIVATIONS))]

    def postprocess(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> list[Result]:
        """Shares and boxes of each frame."""
        batch = self.output(outputs, 0, len(inputs))
        return [self._result(output, frame) for output, frame in zip(batch, inputs, strict=True)]

    def class_map(self, output: Array, frame: Array) -> tuple[Array, float]:
        """(class of each pixel [height, width] without the letterbox's border, mean certainty) of one frame."""
        if not np.isfinite(output).all():
            return np.zeros((1, 1), np.int64), INVALID
        scores = self._scores(output)
        if scores.ndim == 2:
            return self._cropped(scores.astype(np.int64), frame), 1.0
        second, first = np.partition(scores, -2, axis=0)[-2:]
        return self._cropped(scores.argmax(axis=0), frame), float((first - second).mean())

    def agreement(self, result: Result, reference: Result) -> float:
        """The share of the frame in which both have as much of each label."""
        shares = (abs(result.values[n] - reference.values.get(n, 0.0)) for n in result.values)
        return max(0.0, 1.0 - sum(shares) / 2)

    def _scores(self, output: Array) -> Array:
        """Probabilities [classes, height, width], or a class map [height, width]."""
        labels, axis = len(self.manifest.labels), -1 if self.manifest.outputs[0].layout == "NHWC" else 0
        if output.ndim == 3 and output.shape[axis] == 1:
            output = output.take(0, axis)
        if output.ndim == 2:
            return self._two_classes(output) if output.dtype.kind == "f" and labels == 2 else output
        scores = np.moveaxis(output, axis, -1)
        if scores.ndim != 3 or scores.shape[-1] != labels:
            raise ModelError(f"{self.manifest.name}: output {list(output.shape)} of a frame for {labels} labels")
        return np.moveaxis(self._activation(scores.astype(np.float32, copy=False)), -1, 0)

    def _two_classes(self, output: Array) -> Array:
        """Probabilities of two labels from one channel; the threshold becomes 0.5."""
        share, at = self._activation(output.astype(np.float32, copy=False)), self._threshold
        above = 0.5 + (share - at) / (2 * max(1 - at, 1e-6))
        high = np.where(share > at, above, 0.5 * share / max(at, 1e-6))
        return np.stack([1 - high, high])

    def _cropped(self, classes: Array, frame: Array) -> Array:
        """The map without the border that the letterbox added."""
        if self.manifest.preprocess.resize != "letterbox":
            return classes
        top, left, height, width = letterbox((frame.shape[0], frame.shape[1]), *classes.shape)
        return classes[top : top + height, left : left + width]

    def _result(self, output: Array, frame: Array) -> Result:
        classes, certainty = self.class_map(output, frame)
        labels = self.manifest.labels
        if classes.min() < 0 or classes.max() >= len(labels):
            raise ModelError(f"{self.manifest.name}: class {int(classes.max())} has no label, there are {len(labels)}")
        shares = np.bincount(classes.ravel(), minlength=len(labels)) / classes.size
        others = [i for i, name in enumerate(labels) if name != self._background]
        findings = [i for i in others if shares[i] >= self._min_share and shares[i] > 0]
        margins = [ratio_margin(float(shares[i]), self._min_share) for i in others]
        margin = INVALID if certainty == INVALID else bounded(min(certainty, *margins))
        return Result(
            label=" ".join(sorted(labels[i] for i in findings)) or NONE, margin=margin, digest=self.digest,
            values=rounded(dict(zip(labels, map(float, shares), strict=True))),
            boxes=[_box_around(classes == i, labels[i]) for i in findings],
            features=rounded(self.input.features(frame) | {"margin": margin}),
        )  # fmt: skip


def _box_around(mask: Array, label: str) -> Box:
    """The smallest box around the pixels of a mask [height, width]; its score is the share of it that they fill."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    shares = (columns[0] / mask.shape[1], rows[0] / mask.shape[0], width / mask.shape[1], height / mask.shape[0])
    x, y, w, h = (round(float(share), 6) for share in shares)
    return Box(label=label, score=round(float(mask.sum() / (height * width)), 6), x=x, y=y, w=w, h=h)


def open_task(manifest: Manifest, digest: str) -> Segmentation:
    """Entry point `segmentation`."""
    return Segmentation(manifest, digest)
