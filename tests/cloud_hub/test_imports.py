"""Libraries that cost much memory are loaded by the work that needs them, not by the start of the hub."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

HEAVY = {"numba", "scipy", "sklearn", "pyarrow", "matplotlib", "onnxruntime"}
WATCHED = f"print(json.dumps(sorted({HEAVY!r} & sys.modules.keys())))"


def loaded(code: str) -> set[str]:
    """Which of the heavy libraries a fresh interpreter has loaded after `code`."""
    command = [sys.executable, "-c", f"import json, sys\n{code}\n{WATCHED}"]
    found: Any = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return set(found)


@pytest.mark.parametrize("module", ["cloud_hub.app", "cloud_hub.__main__"])
def test_the_hub_starts_without_heavy_libraries(module: str) -> None:
    assert loaded(f"import {module}") == set()


@pytest.mark.timeout(300)  # the machine code may have to be made
def test_a_score_model_loads_numba_for_its_first_sample() -> None:
    pytest.importorskip("numba")
    model = """
import numpy as np
from cloud_hub.thresholds.scores.model import ScoreModel
model = ScoreModel.unpack(ScoreModel(1).pack())
"""
    assert loaded(model) == set()
    assert "numba" in loaded(f"{model}\nmodel.step(np.zeros(1, np.int64), np.zeros(1))")


def test_a_training_with_too_few_crossings_does_not_load_scikit_learn() -> None:
    training = """
import numpy as np
from cloud_hub.thresholds.bands.day_ahead import NotEnough
from cloud_hub.thresholds.forecasts.classifier import NAMES, train
rows, labels = np.zeros((1000, len(NAMES)), np.float32), np.zeros(1000, np.int8)
try:
    train([(rows, labels, np.arange(1000))])
except NotEnough:
    pass
"""
    assert loaded(training) == set()
