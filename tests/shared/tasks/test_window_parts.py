"""A window shared out among the inputs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from examiners.tasks import examine_task
from hypothesis import given
from hypothesis import strategies as st
from simulators.task_models import manifest

from shared.errors import ModelError
from shared.models.manifest import Manifest, Preprocess, TensorSpec
from shared.tasks import Tensors, anomaly, regression, tensors
from shared.tasks.window_parts import WindowParts, joined

SPECS = [
    TensorSpec(name="vibration", shape=(12, 3), layout="NTC"),
    TensorSpec(name="current", shape=(2, 8), layout="NCT", dtype="float16"),
    TensorSpec(name="age", shape=(2,), layout="NC", dtype="int64"),
    TensorSpec(name="load", shape=(4,), layout="NT"),
]


def made(specs: Sequence[TensorSpec] = SPECS, task: str = "tensors", **options: Any) -> Manifest:
    outputs = [("out", (2,))] if task == "tensors" else [("out", (1,))]
    one = manifest(task, outputs, [], shape=(1,), layout="NC", **options)
    return replace(one, inputs=list(specs), preprocess=Preprocess(mean=[float(i) for i in range(8)], std=[2.0]))


def model(inputs: Tensors) -> Tensors:
    total = np.sum([value.reshape(len(value), -1).astype(np.float64).sum(axis=1) for value in inputs.values()], axis=0)
    return {"out": np.abs(np.sin(np.stack([total], axis=1))).astype(np.float32)}


def two(inputs: Tensors) -> Tensors:
    out = model(inputs)["out"]
    return {"out": np.concatenate([out, 1 - out], axis=1)}


def test_tasks_of_windows_with_several_inputs_pass_the_examiner() -> None:
    examine_task(tensors.open_task, made(), two)
    examine_task(regression.open_task, made(task="regression", low=0.2, high=0.9), model)
    examine_task(anomaly.open_task, made(task="anomaly", threshold=0.5), model)
    free = [TensorSpec(name="series", shape=(-1, 2), layout="NTC"), TensorSpec(name="age", shape=(6,), layout="NC")]
    examine_task(tensors.open_task, made(free), two)


def test_each_input_takes_its_metrics_and_its_newest_samples() -> None:
    window = np.arange(12 * 8, dtype=np.float32).reshape(12, 8)
    cut = WindowParts(replace(made(), preprocess=Preprocess())).tensors([window])
    assert {name: value.shape for name, value in cut.items()} == {
        "vibration": (1, 12, 3), "current": (1, 2, 8), "age": (1, 2), "load": (1, 4),
    }  # fmt: skip
    assert (cut["vibration"][0] == window[:, :3]).all()
    assert (cut["current"][0] == window[-8:, 3:5].T).all()
    assert cut["age"][0].tolist() == [93, 94]
    assert cut["load"][0].tolist() == [71, 79, 87, 95]


@given(st.lists(st.tuples(st.sampled_from(["NTC", "NCT", "NT", "NC"]), st.integers(1, 5), st.integers(1, 4)),
                min_size=2, max_size=5), st.integers(1, 3))  # fmt: skip
def test_what_was_joined_is_cut_apart_again(rows: list[tuple[str, int, int]], count: int) -> None:
    shapes = {"NTC": lambda t, c: (t, c), "NCT": lambda t, c: (c, t), "NT": lambda t, _: (t,), "NC": lambda _, c: (c,)}
    specs = [
        TensorSpec(name=f"i{at}", shape=shapes[layout](t, c), layout=layout) for at, (layout, t, c) in enumerate(rows)
    ]
    rng = np.random.default_rng(1)
    arrays = {spec.name: rng.normal(size=(count, *spec.shape)).astype(np.float32) for spec in specs}
    cut = WindowParts(replace(made(specs), preprocess=Preprocess())).tensors(list(joined(specs, arrays)))
    assert all((cut[name] == value).all() for name, value in arrays.items())


def test_features_do_not_depend_on_samples_that_no_input_takes() -> None:
    parts = WindowParts(replace(made(), preprocess=Preprocess()))
    window = np.random.default_rng(1).normal(size=(12, 8)).astype(np.float32)
    other = window.copy()
    other[:4, 3:] = 1e6
    assert parts.features(window) == parts.features(other)


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        ([SPECS[0], TensorSpec(name="image", shape=(3, 8, 8), layout="NCHW")], "'image' has layout 'NCHW'.*--constant"),
        ([SPECS[0], TensorSpec(name="any", shape=(4, -1), layout="NTC")], "'any' takes any number of metrics"),
    ],
)
def test_inputs_that_cannot_be_cut_from_a_window_are_refused(specs: list[TensorSpec], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        tensors.open_task(made(specs), "d")


def test_a_window_that_does_not_fit_is_refused_with_what_each_input_takes() -> None:
    task = tensors.open_task(made(), "d")
    with pytest.raises(ModelError, match=r"is \[12, 7\].*takes \[12, 8\]: 'vibration' metrics 1 to 3, 'current'"):
        task.preprocess([np.zeros((12, 7), np.float32)])
    with pytest.raises(ModelError, match=r"is \[13, 8\]"):
        task.preprocess([np.zeros((13, 8), np.float32)])


def test_a_reconstruction_of_several_inputs_is_refused() -> None:
    with pytest.raises(ModelError, match="models with one input"):
        anomaly.open_task(made(task="anomaly", threshold=0.5, score="reconstruction"), "d")
