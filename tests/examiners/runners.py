"""What every runner must keep, a third party's too: run yours through `examine_runner`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.models import Runner
from shared.errors import ModelError
from shared.models.bundle import Bundle, load


def examine_runner(open_runner: Callable[[Bundle], Runner], folder: Path) -> None:
    """Opens the bundle in `folder`, answers frames alike each time, and refuses what does not fit by ModelError."""
    bundle = load(folder)
    runner = open_runner(bundle)
    assert runner.provider
    spec = bundle.manifest.inputs[0]
    height, width = spec.side("H"), spec.side("W")
    shape = (height, width)
    frames = [bytes(height * width), bytes([255]) * (height * width), bytes(n * 7 % 256 for n in range(height * width))]
    for data in frames:
        result = runner.run(shape, data)
        assert result == runner.run(shape, data), "the same frame is answered otherwise"
        assert result.label in bundle.manifest.labels
        assert result.digest in {bundle.manifest.variant_digest(key) for key in bundle.manifest.variants}
        assert 0.0 <= result.margin <= 1.0
        assert all(math.isfinite(value) for value in result.features.values())
        assert json.loads(json.dumps(result.features)) == result.features
    for wrong, data in (
        ((height + 1, width), bytes((height + 1) * width)),
        ((width * height, 1), bytes(height * width)),
        (shape, bytes(height * width - 1)),
        (shape, bytes(height * width + 1)),
        (shape, b""),
    ):
        with pytest.raises(ModelError) as caught:
            runner.run(wrong, data)
        assert str(caught.value)
    assert runner.run(shape, frames[0]).label, "a refused frame spoilt the runner"
    _broken_bundles(open_runner, bundle)


def _broken_bundles(open_runner: Callable[[Bundle], Runner], bundle: Bundle) -> None:
    """Bytes that are no model, and a manifest that does not fit its model, are told when the bundle is opened."""
    for files in ({}, dict.fromkeys(bundle.files, b"no model at all")):
        with pytest.raises(ModelError):
            open_runner(Bundle(manifest=bundle.manifest, files=files))
