"""What every runner must keep, a third party's too: run yours through `examine_runner`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_agent.models import Runner, RunnerOptions, Tensors
from shared.errors import ModelError
from shared.models.bundle import Bundle, load
from shared.models.manifest import Manifest, TensorSpec

Open = Callable[[Bundle, str, RunnerOptions], Runner]


def examine_runner(open_runner: Open, folder: Path, variant: str, options: RunnerOptions | None = None) -> None:
    """Opens a variant of the bundle in `folder`, runs tensors, and refuses what does not fit by ModelError."""
    options = options or RunnerOptions()
    bundle = load(folder)
    runner = open_runner(bundle, variant, options)
    info = runner.describe()
    assert info.provider
    assert info.precision == bundle.manifest.variant(variant).precision
    assert all(info.refused.values()), "a refused provider has a reason"
    runner.warm_up()
    runner.warm_up()
    size = info.batch or 1
    for seed in range(3):
        tensors = random_inputs(bundle.manifest, size, seed)
        before = {name: value.copy() for name, value in tensors.items()}
        outputs = runner.run(tensors)
        _fits(bundle.manifest, outputs, size)
        kept = {name: value.copy() for name, value in outputs.items()}
        again = runner.run(tensors)
        assert all(np.array_equal(kept[name], again[name], equal_nan=True) for name in kept), "answers differ"
        assert all(np.array_equal(before[name], tensors[name]) for name in before), "the runner changed its input"
    if not info.batch:
        _batches(runner, bundle.manifest, options)
    _refusals(runner, bundle.manifest, size)
    runner.close()
    runner.close()
    _broken_bundles(open_runner, bundle, variant, options)


def random_inputs(manifest: Manifest, size: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {spec.name: _random(spec, size, rng) for spec in manifest.inputs}


def _random(spec: TensorSpec, size: int, rng: np.random.Generator) -> np.ndarray:
    shape = (size, *(side if side > 0 else 8 for side in spec.shape))
    if spec.dtype.startswith(("int", "uint")):
        return rng.integers(0, 127, shape).astype(spec.dtype)
    return rng.random(shape).astype(spec.dtype)


def _fits(manifest: Manifest, outputs: Tensors, size: int) -> None:
    assert set(outputs) == {spec.name for spec in manifest.outputs}
    for spec in manifest.outputs:
        found = outputs[spec.name]
        assert found.dtype == np.dtype(spec.dtype)
        assert found.shape[0] == size
        assert all(side in (-1, real) for side, real in zip(spec.shape, found.shape[1:], strict=True))


def _batches(runner: Runner, manifest: Manifest, options: RunnerOptions) -> None:
    """A batch gives what its members give one by one."""
    size = max(2, options.batch)
    tensors = random_inputs(manifest, size, 7)
    together = {name: value.copy() for name, value in runner.run(tensors).items()}
    _fits(manifest, together, size)
    for place in range(size):
        alone = runner.run({name: np.ascontiguousarray(value[place : place + 1]) for name, value in tensors.items()})
        for name, value in alone.items():
            assert np.allclose(value[0], together[name][place], rtol=1e-3, atol=1e-4)


def _refusals(runner: Runner, manifest: Manifest, size: int) -> None:
    """What does not fit is refused, and the next batch is run as before."""
    good = random_inputs(manifest, size, 1)
    expected = {name: value.copy() for name, value in runner.run(good).items()}
    name = manifest.inputs[0].name
    value = good[name]
    taller = np.concatenate([value, value], axis=-1)
    for wrong in ({}, {**good, name: taller}, {**good, name: value.reshape(-1)}, {**good, name: value.astype("c8")}):
        with pytest.raises(ModelError) as caught:
            runner.run(wrong)
        assert str(caught.value)
    again = runner.run(good)
    assert all(np.array_equal(again[name], expected[name], equal_nan=True) for name in expected)


def _broken_bundles(open_runner: Open, bundle: Bundle, variant: str, options: RunnerOptions) -> None:
    """Bytes that are no model are noticed when it is opened, and so is a variant that is not there."""
    for files in ({}, dict.fromkeys(bundle.files, b"no model at all"), dict.fromkeys(bundle.files, b"")):
        with pytest.raises(ModelError):
            open_runner(Bundle(manifest=bundle.manifest, files=files), variant, options)
    with pytest.raises(ModelError):
        open_runner(bundle, "no-such-variant", options)
