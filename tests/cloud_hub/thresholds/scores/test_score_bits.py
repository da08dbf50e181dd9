"""The anomaly score is equal to itself however it is run: compiled or not, alone or among others, packed or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulators.series import PERIOD_US, START_US, Series, noise, times

from cloud_hub.thresholds.scores import model as scores
from cloud_hub.thresholds.scores import pattern_memory, tails
from cloud_hub.thresholds.scores import state as score_columns
from cloud_hub.thresholds.scores.compiled import jit
from cloud_hub.thresholds.scores.model import (
    InvalidState,
    ScoreModel,
    ScoreSettings,
)
from shared.durations import DAY_US

pytestmark = pytest.mark.timeout(300)  # the first to ask for machine code waits until it is made
needs_numba = pytest.mark.skipif(not jit.AVAILABLE, reason="numba is not installed")

# The same numbers, however they are run (P7).

PARTS = st.sampled_from(["ordinary", "flat", "jump", "wild", "gaps", "holes", "back"])


def world(parts: list[str], seed: int) -> Series:
    """Sixty samples a part, each of another kind of trouble."""
    rng, t_us, at, level = np.random.RandomState(seed), [], START_US, 0.0
    values: list[float] = []
    for part in parts:
        level += 100 * rng.normal() if part == "jump" else 0.0
        for _ in range(60):
            at += int(PERIOD_US * (rng.pareto(1.0) * 10 if part == "gaps" else 1))
            at -= int(rng.rand() * DAY_US) if part == "back" and rng.rand() < 0.1 else 0
            wild = 10.0 ** rng.uniform(-300, 300) * rng.choice([-1, 1])
            t_us.append(at)
            values.append(level if part == "flat" else wild if part == "wild" else level + rng.normal())
            if part == "holes" and rng.rand() < 0.3:
                values[-1] = float(rng.choice([np.nan, np.inf]))
    return np.array(t_us, dtype=np.int64), np.array(values)


def state_after(series: Series, *, fast: bool) -> tuple[bytes, bytes]:
    scored = ScoreModel(1, ScoreSettings(warmup=10), fast=fast)
    return scored.follow(*series).tobytes(), scored.pack()


@needs_numba
@given(parts=st.lists(PARTS, min_size=1, max_size=6), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_machine_code_gives_the_bits_of_numpy(parts: list[str], seed: int) -> None:
    series = world(parts, seed)
    assert state_after(series, fast=True) == state_after(series, fast=False)


@needs_numba
@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (tails, "THIRD", np.float32(0.31)),
        (tails, "HALF", np.float32(0.301029)),
        (pattern_memory, "GRAIN", np.float32(8)),
        (scores, "DECADE", np.float32(4.9)),
    ],
)
def test_machine_code_that_reckons_otherwise_is_caught(
    place: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeded bugs: a constant that NumPy has otherwise than the machine code."""
    series = world(["ordinary", "jump", "wild", "ordinary", "jump"], 1)
    compiled_says = state_after(series, fast=True)
    monkeypatch.setattr(place, name, value)
    assert state_after(series, fast=False) != compiled_says


def together(many: list[Series], fast: bool) -> list[bytes]:
    scored, length = ScoreModel(len(many), ScoreSettings(warmup=10), fast=fast), len(many[0][1])
    rows = [scored.step(np.array([t[i] for t, _ in many]), np.array([v[i] for _, v in many])) for i in range(length)]
    return [np.array(column).tobytes() for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("fast", [True, False])
@given(seed=st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_a_series_is_scored_alike_alone_and_among_others(fast: bool, seed: int) -> None:
    many = [world(["ordinary", part, "jump"], seed + i) for i, part in enumerate(("holes", "gaps", "wild"))]
    assert together(many, fast) == [state_after(series, fast=fast)[0] for series in many]


def test_a_state_not_written_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: what a part of the series learned is lost when others had no sample."""
    many = [world(["ordinary", "holes", "jump"], i) for i in range(3)]
    monkeypatch.setattr(score_columns.Columns, "put", lambda *given: None)
    assert together(many, False) != [state_after(series, fast=False)[0] for series in many]


def test_many_series_go_in_blocks_without_a_seam() -> None:
    n = 1100
    values = np.random.RandomState(1).normal(size=(30, n))
    for fast in (True, False):
        wide, narrow = (
            ScoreModel(n, ScoreSettings(warmup=5), fast=fast),
            ScoreModel(3, ScoreSettings(warmup=5), fast=fast),
        )
        some = [0, 600, n - 1]
        for i, row in enumerate(values):
            all_of_them = wide.step(np.full(n, times()[i]), row)
            assert all_of_them[some].tobytes() == narrow.step(np.full(3, times()[i]), row[some]).tobytes()


def among_holes(n: int, fast: bool) -> tuple[bytes, bytes]:
    """Rows of n series, of which some, none or nearly all have a sample."""
    rng, scored, said = np.random.RandomState(3), ScoreModel(n, ScoreSettings(warmup=5), fast=fast), []
    for i, missing in enumerate([0.0, 0.01, 0.99, 0.5, 1.0, 0.0, 0.01, 0.01] * 5):
        values = rng.normal(size=n) * np.where(rng.rand(n) < 0.05, 30, 1)
        values[rng.rand(n) < missing] = np.nan
        said.append(scored.step(np.full(n, times()[i]), values).tobytes())
    return b"".join(said), scored.pack()


@needs_numba
@pytest.mark.parametrize("rest", [-1, 0, 3])
def test_machine_code_gives_the_bits_of_numpy_in_whole_blocks_with_holes(rest: int) -> None:
    n = score_columns.WIDTH + rest
    assert among_holes(n, True) == among_holes(n, False)


@needs_numba
def test_a_block_not_written_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: where one series has no sample, the others learn nothing."""
    compiled_says = among_holes(score_columns.WIDTH, True)
    monkeypatch.setattr(score_columns.Columns, "put", lambda *given: None)
    assert among_holes(score_columns.WIDTH, False)[0] != compiled_says[0]


# Packed and unpacked.


def test_a_packed_state_goes_on_as_if_it_had_not_been() -> None:
    series = world(["ordinary", "jump", "holes", "wild"], 3)
    whole, first = ScoreModel(1, ScoreSettings(warmup=10)), ScoreModel(1, ScoreSettings(warmup=10))
    said = whole.follow(*series)
    before = first.follow(series[0][:100], series[1][:100])
    second = ScoreModel.unpack(first.pack(), ScoreSettings(warmup=10))
    rest = second.follow(series[0][100:], series[1][100:])
    assert np.concatenate((before, rest)).tobytes() == said.tobytes()
    assert second.pack() == whole.pack()


def test_blocks_are_packed_as_one_and_unpacked_into_blocks() -> None:
    n = 2 * score_columns.WIDTH + 3
    scored = ScoreModel(n)
    for i in range(3):
        scored.step(np.full(n, times()[i]), noise(n, i))
    packed = scored.pack()
    some = np.array([0, score_columns.WIDTH - 1, score_columns.WIDTH, n - 1])
    firsts = np.frombuffer(packed, "<i8", n, score_columns.HEADER.size)
    anchors = np.frombuffer(packed, "<f8", n, score_columns.HEADER.size + 3 * 8 * n)
    assert firsts.tolist() == [times()[0]] * n
    assert anchors.tobytes() == noise(n, 0).tobytes()
    again = ScoreModel.unpack(packed)
    assert again.pack() == packed
    again.restart(some)
    assert (
        np.flatnonzero(np.frombuffer(again.pack(), "<i8", n, score_columns.HEADER.size) == 0).tolist() == some.tolist()
    )


def test_a_state_is_small() -> None:
    assert ScoreModel(100).nbytes <= 1496 * 100
    assert len(ScoreModel(100).pack()) <= 1500 * 100 + 64


def damaged(packed: bytes) -> list[bytes]:
    flipped = [
        packed[:i] + bytes([packed[i] ^ 1]) + packed[i + 1 :] for i in [0, 4, 5, 8, 15, 16, 20, 100, -1 + len(packed)]
    ]
    other = packed[:4] + (1).to_bytes(2, "little") + packed[6:]
    return [b"", b"TGSC", packed[:-1], packed + b"\0", packed + packed, other, b"x" * len(packed), *flipped]


@pytest.mark.parametrize("which", range(16))
def test_damaged_or_foreign_bytes_are_refused(which: int) -> None:
    scored = ScoreModel(2)
    scored.step(times(2), noise(2))
    with pytest.raises(InvalidState):
        ScoreModel.unpack(damaged(scored.pack())[which])
