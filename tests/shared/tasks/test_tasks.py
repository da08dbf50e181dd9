"""Every built-in task passes the examiner, with each of its kinds of input and output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from examiners.tasks import examine_task
from simulators.task_models import manifest, weighted

from shared.models.manifest import Manifest, Preprocess
from shared.tasks import anomaly, classification, detection, regression, segmentation, tensors
from shared.tasks.detection import Detection

LABELS = ["a", "b", "c"]
Case = tuple[Callable[[Manifest, str], Any], Manifest]

IMAGES: Sequence[dict[str, Any]] = (
    {"shape": (1, 8, 6), "layout": "NCHW", "preprocess": Preprocess(color="gray", scale=1 / 255)},
    {"shape": (8, 6, 3), "layout": "NHWC", "dtype": "uint8"},
    {"shape": (3, 8, 6), "layout": "NCHW", "preprocess": Preprocess(
        color="bgr", resize="letterbox", scale=1 / 255, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.2])},
    {"shape": (5, 8, 6), "layout": "NCHW", "dtype": "float16", "preprocess": Preprocess(resize="stretch", scale=0.01)},
    {"shape": (8, 6, 3), "layout": "NHWC", "dtype": "int8", "preprocess": Preprocess(mean=[128.0])},
    {"shape": (8, 6), "layout": "NHW", "preprocess": Preprocess(color="gray", resize="stretch")},
    {"shape": (3, -1, -1), "layout": "NCHW", "preprocess": Preprocess(scale=1 / 255)},
)  # fmt: skip
WINDOWS: Sequence[dict[str, Any]] = (
    {"shape": (12, 3), "layout": "NTC", "preprocess": Preprocess(mean=[1.0, 2.0, 3.0], std=[2.0])},
    {"shape": (3, 12), "layout": "NCT"},
    {"shape": (12,), "layout": "NT"},
    {"shape": (9,), "layout": "NC", "dtype": "float16"},
    {"shape": (-1, 2), "layout": "NTC"},
)


def cases() -> list[Case]:
    found: list[Case] = []
    for image in IMAGES:
        made = manifest("classification", [("out", (3,))], LABELS, **image, activation="softmax")
        found.append((classification.open_task, made))
    for window in WINDOWS:
        found += [
            (regression.open_task, manifest("regression", [("out", (1,))], [], **window, low=-1.0, high=1.0)),
            (regression.open_task, manifest("regression", [("out", (3,))], LABELS, **window, gain=2.0, offset=1.0)),
            (anomaly.open_task, manifest("anomaly", [("out", ())], [], **window, threshold=0.5)),
            (classification.open_task, manifest("classification", [("out", (3,))], LABELS, **window)),
        ]  # fmt: skip
    image = IMAGES[2]
    found.append((anomaly.open_task, manifest("anomaly", [("out", (1, 8, 6))], ["ok", "bad"], **image, threshold=0.5)))
    for shape, labels in (((3, 8, 6), LABELS), ((1, 8, 6), ["ok", "bad"]), ((8, 6), ["ok", "bad"])):
        made = manifest("segmentation", [("out", shape)], labels, **image, activation="sigmoid")
        found.append((segmentation.open_task, made))
    for head, outputs, more in (
        ("yolov8", [("out", (7, 40))], {}), ("yolov8", [("out", (40, 7))], {}), ("yolov5", [("out", (40, 8))], {}),
        ("ssd", [("boxes", (40, 4)), ("scores", (40, 4))], {"activation": "softmax"}),
        ("boxes", [("boxes", (9, 4)), ("scores", (9,)), ("classes", (9,))], {}), ("end2end", [("out", (9, 6))], {}),
    ):  # fmt: skip
        made = manifest("detection", outputs, LABELS, **image, head=head, **more)
        found.append((detection.open_task, made))
    found.append((tensors.open_task, manifest("tensors", [("x", (4, 4)), ("y", (2,))], [], **image, max_values=10)))
    return found


@pytest.mark.parametrize(("open_task", "made"), cases(), ids=lambda one: getattr(one, "task", ""))
def test_every_task_passes_the_examiner(open_task: Callable[[Manifest, str], Any], made: Manifest) -> None:
    examine_task(open_task, made, weighted(made))


def test_an_autoencoder_that_reproduces_its_input_scores_nothing() -> None:
    made = manifest("anomaly", [("out", (12, 3))], [], **WINDOWS[0], threshold=0.5, score="reconstruction")
    examine_task(anomaly.open_task, made, lambda inputs: {"out": inputs["in"] * 0.5})
    task = anomaly.open_task(made, "d")
    window = np.random.default_rng(1).normal(3, 9, (12, 3)).astype(np.float32)
    outputs = {"out": task.preprocess([window])["in"]}
    (same,) = task.postprocess(outputs, [window])
    assert (same.label, same.values) == ("normal", {"score": 0.0})
    (other,) = task.postprocess({"out": outputs["out"] + 2}, [window])
    assert (other.label, other.values) == ("anomaly", {"score": pytest.approx(4.0)})
    assert 0 < same.margin < other.margin


def yolo(*rows: tuple[float, ...], head: str = "yolov8", **options: Any) -> tuple[Detection, dict[str, Any]]:
    """A detector for 80x80 RGB and outputs with these rows: cx, cy, w, h, scores."""
    image = {"shape": (3, 80, 80), "layout": "NCHW", "preprocess": Preprocess(resize="letterbox")}
    made = manifest("detection", [("out", (len(rows), 6))], ["car", "person"], **image, head=head, **options)
    return detection.open_task(made, "d"), {"out": np.array([rows], np.float32)}


def test_of_boxes_that_overlap_the_best_of_each_class_remains() -> None:
    task, outputs = yolo(
        (20, 20, 20, 20, 0.9, 0.0), (21, 20, 20, 20, 0.6, 0.0), (20, 20, 20, 20, 0.0, 0.7), (60, 60, 8, 8, 0.8, 0.0)
    )
    (result,) = task.postprocess(outputs, [np.zeros((80, 80, 3), np.uint8)])
    assert [(box.label, box.score) for box in result.boxes] == [("car", 0.9), ("car", 0.8), ("person", 0.7)]
    assert result.label == "car:2 person:1"
    assert result.values == {"count": 3.0, "count.car": 2.0, "count.person": 1.0}
    assert result.margin == pytest.approx((0.7 - 0.25) / 0.75)


def test_a_score_near_the_threshold_makes_the_margin_small_on_either_side() -> None:
    for score, label in ((0.26, "car:1"), (0.24, "none")):
        task, outputs = yolo((20, 20, 20, 20, score, 0.0), (60, 60, 8, 8, 0.01, 0.0))
        (result,) = task.postprocess(outputs, [np.zeros((80, 80, 3), np.uint8)])
        assert (result.label, result.margin < 0.05) == (label, True)
    task, outputs = yolo((20, 20, 20, 20, 0.0, 0.0))
    (empty,) = task.postprocess(outputs, [np.zeros((80, 80, 3), np.uint8)])
    assert (empty.label, empty.margin, empty.boxes) == ("none", 1.0, [])


def test_boxes_are_shares_of_the_frame_whatever_the_letterbox_added() -> None:
    """A frame of 20 x 40 becomes 40 x 80 of 80 x 80, with 20 rows above and below."""
    task, outputs = yolo((40, 30, 40, 20, 0.9, 0.0), (200, 200, 10, 10, 0.9, 0.0))
    (result,) = task.postprocess(outputs, [np.zeros((20, 40, 3), np.uint8)])
    (box,) = result.boxes
    assert (box.x, box.y, box.w, box.h) == (0.25, 0.0, 0.5, 0.5)


def test_all_heads_give_the_same_boxes() -> None:
    """One car at 0.25..0.75 across and 0.125..0.375 down, as each head would say it."""
    frame = np.zeros((80, 80, 3), np.uint8)
    image = {"shape": (3, 80, 80), "layout": "NCHW"}
    said: dict[str, dict[str, Any]] = {
        "yolov8": {"out": [[40, 20, 40, 20, 0.9, 0.1]]},
        "yolov5": {"out": [[40, 20, 40, 20, 0.9, 1.0, 0.1]]},
        "ssd": {"boxes": [[0.25, 0.125, 0.75, 0.375]], "scores": [[0.05, 0.9, 0.05]]},
        "boxes": {"boxes": [[0.125, 0.25, 0.375, 0.75]], "scores": [0.9], "classes": [0]},
        "end2end": {"out": [[20, 10, 60, 30, 0.9, 0]]},
    }
    found = set()
    for head, outputs in said.items():
        arrays = {name: np.array([value], np.float32) for name, value in outputs.items()}
        shapes = [(name, value.shape[1:]) for name, value in arrays.items()]
        made = manifest("detection", shapes, ["car", "person"], **image, head=head)
        (result,) = detection.open_task(made, "d").postprocess(arrays, [frame])
        (box,) = result.boxes
        found.add((box.label, box.score, box.x, box.y, box.w, box.h))
    assert found == {("car", 0.9, 0.25, 0.125, 0.5, 0.25)}


def test_agreement_of_detections_is_the_f1_of_matching_boxes() -> None:
    frame = [np.zeros((80, 80, 3), np.uint8)]
    task, outputs = yolo((20, 20, 20, 20, 0.9, 0.0), (60, 60, 10, 10, 0.9, 0.0))
    _, moved = yolo((21, 20, 20, 20, 0.8, 0.0), (60, 60, 10, 10, 0.0, 0.9))
    (one,), (other,) = task.postprocess(outputs, frame), task.postprocess(moved, frame)
    assert task.agreement(one, other) == 0.5


def test_a_segmentation_measures_each_label_and_boxes_the_findings() -> None:
    image = {"shape": (3, 10, 20), "layout": "NCHW"}
    made = manifest("segmentation", [("out", (10, 20))], ["clean", "crack", "dirt"], **image, min_share=0.01)
    classes = np.zeros((1, 10, 20), np.int64)
    classes[0, 2:4, 5:10] = 1
    classes[0, 9, 19] = 2
    (result,) = segmentation.open_task(made, "d").postprocess({"out": classes}, [np.zeros((10, 20, 3), np.uint8)])
    assert result.label == "crack"
    assert result.values == {"clean": 0.945, "crack": 0.05, "dirt": 0.005}
    (box,) = result.boxes
    assert (box.x, box.y, box.w, box.h, box.score) == (0.25, 0.2, 0.25, 0.2, 1.0)


def test_a_regression_says_on_which_side_of_its_limits_a_value_is() -> None:
    made = manifest("regression", [("out", (1,))], [], **WINDOWS[2], low=10.0, high=20.0, gain=10.0)
    task = regression.open_task(made, "d")
    windows = [np.zeros((12, 1), np.float32)] * 4
    results = task.postprocess({"out": np.array([[0.5], [1.01], [1.5], [2.5]], np.float32)}, windows)
    assert [result.label for result in results] == ["low", "normal", "normal", "high"]
    assert results[0].values == {"value": 5.0}
    assert results[1].margin < results[2].margin
