"""Task `detection`: boxes with labels and scores.

The label of a result counts the boxes: `car:2 person:1`, or `none`. The margin is the smallest distance of a box's
score from the confidence threshold, scaled to 0..1: with a large margin a small change of the image changes no count.

Options: `head` (see `heads`), `confidence`, `iou` and `max_boxes` of the suppression, `box_format` and `box_units` when
they differ from the head's usual ones, `background` (class 0 is none of the labels), `activation` of the class scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from shared.errors import ModelError
from shared.models.gate import Box, Result
from shared.models.manifest import Manifest
from shared.tasks import Array
from shared.tasks.base import BaseTask
from shared.tasks.boxes import MAX_CANDIDATES, overlap, suppress, to_corners
from shared.tasks.heads import HEADS, Candidates, HeadOptions
from shared.tasks.images import ImageInput, letterbox
from shared.tasks.options import choice, flag, number
from shared.tasks.scores import ACTIVATIONS, INVALID, bounded, rounded

NONE = "none"
"""The label of a frame without boxes."""
MATCHING_IOU = 0.5


class Detection(BaseTask):
    """Boxes of each frame; `values` holds `count`, and `count.LABEL` of each label."""

    options = ("head", "confidence", "iou", "max_boxes", "box_format", "box_units", "background", "activation")

    def __init__(self, manifest: Manifest, digest: str) -> None:
        super().__init__(manifest, digest)
        if not manifest.labels or not isinstance(self.input, ImageInput):
            raise ModelError(f"{manifest.name}: a detector has an image as input, and labels")
        self._head = HEADS[choice(manifest, "head", list(HEADS))]
        if len(manifest.outputs) < self._head.outputs:
            raise ModelError(
                f"{manifest.name}: this head has {self._head.outputs} outputs, not {len(manifest.outputs)}"
            )
        self._confidence = number(manifest, "confidence", 0.25, 0.001, 0.999)
        self._iou = number(manifest, "iou", 0.45, 0.0, 1.0)
        self._max_boxes = int(number(manifest, "max_boxes", 100, 1, MAX_CANDIDATES))
        formats = dict.fromkeys((self._head.box_format, "xyxy", "yxyx", "xywh", "cxcywh"))
        self._format = choice(manifest, "box_format", list(formats))
        units = ("pixels", "relative") if self._head.pixels else ("relative", "pixels")
        self._pixels = choice(manifest, "box_units", units) == "pixels"
        self._how = HeadOptions(
            labels=len(manifest.labels), background=flag(manifest, "background", self._head.background),
            activation=ACTIVATIONS[choice(manifest, "activation", list(ACTIVATIONS))],
        )  # fmt: skip

    def postprocess(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> list[Result]:
        """The boxes of each frame."""
        batches = [self._batched(outputs, at, len(inputs)) for at in range(self._head.outputs)]
        size = self._input_size(inputs)
        return [self._result([output[i] for output in batches], frame, size) for i, frame in enumerate(inputs)]

    def agreement(self, result: Result, reference: Result) -> float:
        """F1 of the boxes: those of one label that overlap by half or more match."""
        total = len(result.boxes) + len(reference.boxes)
        return 2 * _matches(result.boxes, reference.boxes) / total if total else 1.0

    def _batched(self, outputs: Mapping[str, Array], at: int, count: int) -> Array:
        """An output; exports without a batch dimension get one."""
        name = self.manifest.outputs[at].name
        if count == 1 and name in outputs and outputs[name].ndim == len(self.manifest.outputs[at].shape) != 0:
            return outputs[name][None]
        return self.output(outputs, at, count)

    def _input_size(self, inputs: Sequence[Array]) -> tuple[int, int]:
        """(height, width) of the model's input for these frames."""
        assert isinstance(self.input, ImageInput)
        height, width = self.input.height, self.input.width
        return height if height > 0 else inputs[0].shape[0], width if width > 0 else inputs[0].shape[1]

    def _result(self, outputs: list[Array], frame: Array, size: tuple[int, int]) -> Result:
        boxes, margin = self._select_boxes(self._candidates(outputs), (frame.shape[0], frame.shape[1]), size)
        counts = Counter(box.label for box in boxes)
        values = {"count": float(len(boxes))} | {f"count.{name}": float(counts[name]) for name in self.manifest.labels}
        return Result(
            label=" ".join(f"{name}:{counts[name]}" for name in sorted(counts)) or NONE, margin=margin,
            digest=self.digest, boxes=boxes, values=values,
            features=rounded(self.input.features(frame) | {"margin": margin}),
        )  # fmt: skip

    def _candidates(self, outputs: list[Array]) -> Candidates:
        try:
            boxes, scores, classes = self._head.decode(outputs, self._how)
        except ValueError as error:
            raise ModelError(f"{self.manifest.name}: {error}") from None
        if not len(boxes) == len(scores) == len(classes):
            raise ModelError(f"{self.manifest.name}: {len(boxes)} boxes, {len(scores)} scores, {len(classes)} classes")
        return boxes, scores, classes

    def _select_boxes(
        self, candidates: Candidates, frame: tuple[int, int], size: tuple[int, int]
    ) -> tuple[list[Box], float]:
        """The boxes above the threshold, and the margin. Boxes that nearly reach it count for the margin."""
        boxes, scores, classes = candidates
        near = scores >= self._confidence / 2
        below = float(scores[~near].max(initial=0.0))  # NaN is in here
        boxes, scores, classes = boxes[near].astype(np.float32), scores[near], classes[near]
        if not np.isfinite(below) or not np.isfinite(boxes).all():
            return [], INVALID
        corners = self._in_frame(to_corners(boxes, self._format), frame, size)
        order = self._suppressed(corners, scores, classes)
        margin = min(self._distance(float(score)) for score in (*scores[order], below))
        kept = [i for i in order if scores[i] >= self._confidence]
        built = (self._box(corners[i], float(scores[i]), int(classes[i])) for i in kept)
        return [box for box in built if box.w > 0 and box.h > 0], bounded(margin)

    def _suppressed(self, corners: Array, scores: Array, classes: Array) -> Array:
        """Indices, best first. What comes after `max_boxes` is farther from the threshold, or changes no count."""
        if self._head.suppressed:
            return np.argsort(-scores)[: self._max_boxes]
        return suppress(corners, scores, classes, self._iou, self._max_boxes)

    def _in_frame(self, corners: Array, frame: tuple[int, int], size: tuple[int, int]) -> Array:
        """Corners in the model's input as shares of the frame; a letterbox is undone."""
        height, width = size
        scaled = corners if self._pixels else corners * np.array([width, height, width, height], np.float32)
        top, left, inner_h, inner_w = 0, 0, height, width
        if self.manifest.preprocess.resize == "letterbox":
            top, left, inner_h, inner_w = letterbox(frame, height, width)
        start, extent = np.array([left, top] * 2, np.float32), np.array([inner_w, inner_h] * 2, np.float32)
        return np.asarray((scaled - start) / extent)

    def _distance(self, score: float) -> float:
        if score >= self._confidence:
            return (score - self._confidence) / (1 - self._confidence)
        return (self._confidence - score) / self._confidence

    def _box(self, corners: Array, score: float, class_number: int) -> Box:
        if not 0 <= class_number < len(self.manifest.labels):
            raise ModelError(
                f"{self.manifest.name}: class {class_number} has no label, there are {len(self.manifest.labels)}"
            )
        left, top, right, bottom = (round(float(side), 6) for side in np.clip(corners, 0.0, 1.0))
        return Box(
            label=self.manifest.labels[class_number], score=round(score, 6),
            x=left, y=top, w=round(right - left, 6), h=round(bottom - top, 6),
        )  # fmt: skip


def _matches(boxes: Sequence[Box], others: Sequence[Box]) -> int:
    """How many of `boxes` have a partner among `others`, the best one first."""
    free, count = list(others), 0
    for box in boxes:
        shares = [_iou(box, other) if other.label == box.label else 0.0 for other in free]
        if shares and max(shares) >= MATCHING_IOU:
            free.pop(shares.index(max(shares)))
            count += 1
    return count


def _iou(box: Box, other: Box) -> float:
    first, second = (np.array([b.x, b.y, b.x + b.w, b.y + b.h], np.float32) for b in (box, other))
    return float(overlap(first, second[None])[0])


def open_task(manifest: Manifest, digest: str) -> Detection:
    """Entry point `detection`."""
    return Detection(manifest, digest)
