"""What every task must keep, a third party's too: run yours through `examine_task`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shared.errors import ModelError
from shared.models.gate import Gate, Result, decide
from shared.models.manifest import FREE, Manifest
from shared.tasks import Array, Task, Tensors

DIGEST = "sha256:examined"
GATE = Gate(digest=DIGEST, alpha=0.02, delta=0.1, n=300, k=2, margin=0.0, audit=0.0)


def examine_task(
    open_task: Callable[[Manifest, str], Task], manifest: Manifest, model: Callable[[Tensors], Tensors]
) -> None:
    """Feeds inputs through the task and `model`, which maps its input tensors to output tensors."""
    task = open_task(manifest, DIGEST)
    inputs = _inputs(task.blank())
    _tensors_fit(task, manifest, inputs)
    results = _results(task, model, inputs)
    _results_are_sound(task, results)
    assert results == _results(task, model, inputs), "the same inputs are answered otherwise"
    for result, one in zip(results, inputs, strict=True):
        (alone,) = _results(task, model, [one])
        assert task.agreement(result, alone) > 0.999, "an input is answered otherwise within a batch"
        assert result.margin == pytest.approx(alone.margin, abs=1e-3)
    _misfits_are_refused(task, inputs)
    _bad_outputs(task, model, inputs)
    with pytest.raises(ModelError, match="nonsense"):
        open_task(replace(manifest, task_options=manifest.task_options | {"nonsense": 1.0}), DIGEST)


def _inputs(blank: Array) -> list[Array]:
    """Three inputs like the blank one: itself, noise, and one in reverse that is not contiguous and not writable."""
    rng = np.random.default_rng(7)
    if blank.dtype == np.uint8:
        noise = rng.integers(0, 256, blank.shape, np.uint8)
    else:
        noise = rng.normal(size=blank.shape).astype(np.float32)
    reverse = noise[::-1, ::-1]
    reverse.flags.writeable = False
    return [blank, noise, reverse]


def _tensors_fit(task: Task, manifest: Manifest, inputs: list[Array]) -> None:
    """Tensors have the manifest's names, shapes and dtypes, do not depend on the batch, and leave the inputs alone."""
    before = [one.copy() for one in inputs]
    tensors = task.preprocess(inputs)
    assert all((one == copy).all() for one, copy in zip(inputs, before, strict=True)), "an input was changed"
    assert set(tensors) == {spec.name for spec in manifest.inputs}
    for spec in manifest.inputs:
        tensor = tensors[spec.name]
        assert tensor.dtype == spec.dtype
        assert tensor.shape[0] == len(inputs)
        assert all(want in (FREE, side) for want, side in zip(spec.shape, tensor.shape[1:], strict=True))
        assert tensor.flags.c_contiguous
        for i, one in enumerate(inputs):
            assert (task.preprocess([one])[spec.name][0] == tensor[i]).all()
    with pytest.raises(ModelError):
        task.preprocess([])


def _results(task: Task, model: Callable[[Tensors], Tensors], inputs: list[Array]) -> list[Result]:
    return task.postprocess(model(task.preprocess(inputs)), inputs)


def _results_are_sound(task: Task, results: list[Result]) -> None:
    for result in results:
        assert result.label
        assert result.digest == DIGEST
        assert 0.0 <= result.margin <= 1.0
        numbers = [*result.features.values(), *result.values.values()]
        assert all(math.isfinite(value) for value in numbers)
        assert json.loads(json.dumps(result.values)) == result.values
        assert "margin" in result.features
        for box in result.boxes:
            assert 0.0 <= box.x <= box.x + box.w <= 1.000001
            assert 0.0 <= box.y <= box.y + box.h <= 1.000001
            assert 0.0 <= box.score <= 1.0
        assert task.agreement(result, result) == 1.0
        assert all(0.0 <= task.agreement(result, other) <= 1.0 for other in results)


def _misfits_are_refused(task: Task, inputs: list[Array]) -> None:
    one = inputs[1]
    other_type = one.astype(np.float32) if one.dtype == np.uint8 else one.astype(np.int64)
    for wrong in (one[..., None], one.ravel(), one[:0], other_type):
        with pytest.raises(ModelError) as caught:
            task.preprocess([wrong])
        assert str(caught.value)


def _bad_outputs(task: Task, model: Callable[[Tensors], Tensors], inputs: list[Array]) -> None:
    """Outputs that are no numbers are never kept; missing ones and those of another batch are refused."""
    good = model(task.preprocess(inputs))
    floats = {name: np.full_like(value, np.nan) for name, value in good.items() if value.dtype.kind == "f"}
    if floats:
        for result in task.postprocess(good | floats, inputs):
            assert decide(GATE, result, drifted=False, draw=0.5) == "invalid"
    for outputs in ({}, {name: value[:2] for name, value in good.items()}):
        with pytest.raises(ModelError) as caught:
            task.postprocess(outputs, inputs)
        assert str(caught.value)
