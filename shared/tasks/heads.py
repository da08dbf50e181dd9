"""Output formats ("heads") of detectors. Each returns, for one image, corners [n, 4], scores [n] and classes [n].

`yolov8`   one output [4 + classes, anchors] or transposed: cx, cy, w, h in input pixels, then class scores
`yolov5`   one output [anchors, 5 + classes]: cx, cy, w, h in input pixels, objectness, class scores
`ssd`      two outputs: boxes [anchors, 4] as shares, and class scores [anchors, 1 + classes], background first
`boxes`    three outputs, already suppressed: boxes [n, 4], scores [n], classes [n] (TensorFlow)
`end2end`  one output [n, 6], already suppressed: left, top, right, bottom in input pixels, score, class (YOLOv10, 26)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from shared.tasks import Array

Candidates: TypeAlias = tuple[Array, Array, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions:
    """`labels` is how many there are; with `background` class 0 is none of them."""

    labels: int
    background: bool
    activation: Callable[[Array], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """`box_format` is its usual order of coordinates, `pixels` whether they are input pixels or shares of the input."""

    outputs: int
    decode: Callable[[list[Array], HeadOptions], Candidates]
    box_format: str
    pixels: bool
    suppressed: bool = False
    background: bool = False


def best_class(boxes: Array, scores: Array) -> Candidates:
    """The best class of each box; scores [n, classes]."""
    classes = scores.argmax(axis=1)
    return boxes, scores[np.arange(len(scores)), classes], classes


def _yolov8(outputs: list[Array], options: HeadOptions) -> Candidates:
    rows = outputs[0]
    if rows.ndim == 2 and rows.shape[0] == 4 + options.labels != rows.shape[1]:
        rows = rows.T
    _check_columns(rows, 4 + options.labels, "4 + labels")
    return best_class(rows[:, :4], options.activation(rows[:, 4:]))


def _yolov5(outputs: list[Array], options: HeadOptions) -> Candidates:
    rows = outputs[0]
    _check_columns(rows, 5 + options.labels, "5 + labels")
    return best_class(rows[:, :4], options.activation(rows[:, 5:]) * options.activation(rows[:, 4:5]))


def _ssd(outputs: list[Array], options: HeadOptions) -> Candidates:
    boxes, scores = outputs
    _check_columns(boxes, 4, "4")
    _check_columns(
        scores, options.labels + options.background, "background + labels" if options.background else "labels"
    )
    return best_class(boxes, options.activation(scores)[:, int(options.background) :])


def _boxes(outputs: list[Array], options: HeadOptions) -> Candidates:
    boxes, scores, classes = outputs[0], outputs[1].ravel(), outputs[2].ravel()
    _check_columns(boxes, 4, "4")
    return boxes, scores, _class_numbers(classes, options)


def _end2end(outputs: list[Array], options: HeadOptions) -> Candidates:
    rows = outputs[0]
    _check_columns(rows, 6, "6")
    return rows[:, :4], rows[:, 4], _class_numbers(rows[:, 5], options)


def _class_numbers(classes: Array, options: HeadOptions) -> Array:
    return np.nan_to_num(classes).astype(np.int64) - int(options.background)


def _check_columns(rows: Array, columns: int, meaning: str) -> None:
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise ValueError(f"output is {list(rows.shape)} for an image, wanted {columns} columns ({meaning})")


HEADS = {
    "yolov8": Head(outputs=1, decode=_yolov8, box_format="cxcywh", pixels=True),
    "yolov5": Head(outputs=1, decode=_yolov5, box_format="cxcywh", pixels=True),
    "ssd": Head(outputs=2, decode=_ssd, box_format="xyxy", pixels=False, background=True),
    "boxes": Head(outputs=3, decode=_boxes, box_format="yxyx", pixels=False, suppressed=True),
    "end2end": Head(outputs=1, decode=_end2end, box_format="xyxy", pixels=True, suppressed=True),
}
