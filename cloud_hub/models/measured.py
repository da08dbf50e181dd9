"""Options of a task that the reference's answers to the calibration data tell.

Every calibration input is read once here, so that a damaged one is reported before anything is quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cloud_hub.models.data import Item
from cloud_hub.models.evaluation import tensors
from cloud_hub.models.graph import Graph
from cloud_hub.models.request import Options
from cloud_hub.models.variants import session_for
from shared.models.manifest import Manifest
from shared.tasks import Array, Task, Tensors, open_task
from shared.tasks.anomaly import LABELS, Anomaly

MEASURED = ("classification", "regression", "anomaly")
NORMAL_QUANTILE = 0.995
"""The threshold of an anomaly model is this quantile of the scores of normal inputs."""


def with_measured_options(manifest: Manifest, graph: Graph, calibration: Sequence[Item]) -> Manifest:
    """The manifest with the options that were not given and that the calibration data tell; raises BuildError."""
    probe: Options = {"threshold": 0.0} if manifest.task == "anomaly" else {}
    task = open_task(replace(manifest, task_options=probe | manifest.task_options), graph.reference)
    normal = _normal(manifest, calibration)
    rows = _answers(task, manifest, graph, normal)
    names = {item.name for item in normal}
    others = [item for item in calibration if item.name not in names]
    for _ in tensors(task, others, manifest.preprocess.color, graph.batch):
        pass
    return replace(manifest, task_options=_options(manifest, rows) | manifest.task_options)


def _answers(task: Task, manifest: Manifest, graph: Graph, items: Sequence[Item]) -> Array:
    """A row of numbers for each item: outputs of a classifier or regression, scores of an anomaly model."""
    session = session_for(manifest, graph.reference, graph.content)
    rows: list[Array] = []
    for inputs, batch in tensors(task, items, manifest.preprocess.color, graph.batch):
        if manifest.task in MEASURED:
            filled = inputs + inputs[-1:] * (len(next(iter(batch.values()))) - len(inputs))
            rows.append(_rows(task, manifest, session.run(batch), filled)[: len(inputs)])
    return np.concatenate(rows) if rows else np.zeros((0, 1))


def _rows(task: Task, manifest: Manifest, outputs: Tensors, inputs: list[Array]) -> Array:
    if isinstance(task, Anomaly):
        return task.scores(outputs, inputs)[:, None].astype(np.float64)
    return np.atleast_1d(outputs[manifest.outputs[0].name]).reshape(len(inputs), -1).astype(np.float64)


def _normal(manifest: Manifest, calibration: Sequence[Item]) -> Sequence[Item]:
    """The inputs to measure on: of an anomaly model those known to be normal, when that is known."""
    label = (manifest.labels or LABELS)[0]
    known = [item for item in calibration if item.truth == label]
    return known if manifest.task == "anomaly" and known else calibration


def _options(manifest: Manifest, rows: Array) -> Options:
    if manifest.task == "classification":
        return {"activation": "none" if _are_probabilities(rows) else "softmax"}
    if manifest.task == "regression":
        return {"scale": _deviation(rows[:, 0]) * abs(float(manifest.task_options.get("gain", 1.0)))}
    if manifest.task == "anomaly":
        return {"threshold": float(np.quantile(rows, NORMAL_QUANTILE)), "scale": _deviation(rows)}
    return {}


def _are_probabilities(rows: Array) -> bool:
    return bool((rows >= -1e-4).all() and (rows <= 1.0001).all() and np.allclose(rows.sum(axis=1), 1.0, atol=1e-2))


def _deviation(values: Array) -> float:
    return max(float(values.std()), 1e-9)
