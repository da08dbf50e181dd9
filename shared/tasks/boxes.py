"""Boxes of detectors in numpy: formats, intersection over union, non-maximum suppression."""

from __future__ import annotations

import numpy as np

from shared.tasks import Array

MAX_CANDIDATES = 1000
"""Suppression looks at so many boxes with the highest scores."""


def to_corners(boxes: Array, form: str) -> Array:
    """Boxes [n, 4] as left, top, right, bottom. `form` is xyxy, yxyx, xywh or cxcywh."""
    if form == "yxyx":
        return np.asarray(boxes[:, [1, 0, 3, 2]])
    if form == "xyxy":
        return boxes
    start = boxes[:, :2] if form == "xywh" else boxes[:, :2] - boxes[:, 2:] / 2
    return np.concatenate([start, start + boxes[:, 2:]], axis=1)


def overlap(box: Array, others: Array) -> Array:
    """Intersection over union of a box [4] with `others` [n, 4], in corners."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    np.maximum(sides, 0, out=sides)
    shared, extents = sides[:, 0] * sides[:, 1], others[:, 2:] - others[:, :2]
    areas = extents[:, 0] * extents[:, 1] + (box[2] - box[0]) * (box[3] - box[1])
    return np.asarray(shared / np.maximum(areas - shared, 1e-9))


def suppress(boxes: Array, scores: Array, classes: Array, iou: float, limit: int) -> Array:
    """Indices of at most `limit` boxes that remain, best first: of a class's boxes that overlap more the best one.

    `boxes` [n, 4] in corners, `scores` [n], `classes` [n]; boxes overlap when they share more than `iou`.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    kept: list[int] = []
    while order.size and len(kept) < limit:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        rival = (overlap(boxes[best], boxes[order]) > iou) & (classes[order] == classes[best])
        order = order[~rival]
    return np.array(kept, np.intp)
