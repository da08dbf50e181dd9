"""Machine code is made anew when anything that it is made of changes, in whatever file that stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cloud_hub.thresholds.scores.compiled import features as compiled_features
from cloud_hub.thresholds.scores.compiled import jit
from cloud_hub.thresholds.scores.compiled import step as compiled
from cloud_hub.thresholds.scores.compiled import tails as compiled_tails
from cloud_hub.thresholds.scores.compiled.jit import mark, part

SOURCE = """
def below(x):
    return {part}

def above(x):
    return below(x) + CONSTANT
"""


def made(part_: str = "x * 2", **constants: Any) -> Any:
    """A function that calls another of its file; each made anew."""
    names: dict[str, Any] = {"CONSTANT": 1.0, "__name__": "somewhere", **constants}
    exec(SOURCE.format(part=part_), names)
    return names["above"]


def test_the_same_code_and_constants_have_the_same_mark() -> None:
    assert mark(made()) == mark(made())


@pytest.mark.parametrize(
    "other",
    [
        made(CONSTANT=2.0),
        made(CONSTANT=1),
        made(CONSTANT=np.float32(1.0)),
        made(CONSTANT=np.ones(2)),
        made(CONSTANT=(1.0, 2.0)),
        made("x * 3"),
        made("x + 2"),
        made("x * CONSTANT"),
    ],
)
def test_other_code_or_another_constant_has_another_mark(other: Any) -> None:
    assert mark(other) != mark(made())


def test_what_changes_elsewhere_changes_the_mark_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    before = mark(compiled._step)
    monkeypatch.setattr(compiled_tails, "THIRD", np.float32(0.31))
    changed = mark(compiled._step)
    monkeypatch.setattr(compiled_features, "WIDTH", 128)
    assert len({before, changed, mark(compiled._step)}) == 3


@pytest.mark.skipif(not jit.AVAILABLE, reason="numba is not installed")
def test_code_kept_under_another_mark_is_not_taken() -> None:
    """The seeded bug: without the mark, the code of before would answer for the constant of now."""
    keys = []
    for made_of in (1, 1, 2):
        step, _ = compiled._entries(made_of)
        keys.append(step._cache._index_key(("any",), step.targetctx.codegen()))
    assert keys[0] == keys[1] != keys[2]


def test_without_numba_functions_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "AVAILABLE", False)
    assert part(made) is made
    assert jit.entry(made) is made
