"""The anomaly score: equal to itself however it is run, calm on ordinary and bad input, awake to what is strange.

Each property comes with a seeded bug that it must catch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.thresholds.scores import model as scores
from cloud_hub.thresholds.scores import pattern_memory, tails
from cloud_hub.thresholds.scores import state as score_columns
from cloud_hub.thresholds.scores.compiled import jit
from cloud_hub.thresholds.scores.model import (
    DEFAULTS,
    InvalidState,
    ScoreModel,
    ScoreSettings,
    exceedances,
    score_series,
)
from shared.durations import DAY_US, HOUR_US

PERIOD_US = 300_000_000
START_US = 1_700_000_000_000_000
LENGTH, CHANGE = 6000, 4000

Series = tuple[np.ndarray, np.ndarray]
pytestmark = pytest.mark.timeout(300)  # the first to ask for machine code waits until it is made
needs_numba = pytest.mark.skipif(not jit.AVAILABLE, reason="numba is not installed")


def times(n: int = LENGTH) -> np.ndarray:
    return START_US + np.arange(n, dtype=np.int64) * PERIOD_US


def noise(n: int = LENGTH, seed: int = 1) -> np.ndarray:
    return np.random.RandomState(seed).normal(size=n)


def daily(seed: int = 1, n: int = LENGTH) -> np.ndarray:
    """A day between 40 and 60 with noise."""
    return 50 + 10 * np.sin(2 * np.pi * times(n) / DAY_US) + noise(n, seed)


def pages(series: Series) -> list[int]:
    return np.flatnonzero(exceedances(score_series(*series))).tolist()


def after(values: np.ndarray, change: Callable[[np.ndarray], Any], until: int = LENGTH) -> Series:
    values = values.copy()
    values[CHANGE:until] = change(values[CHANGE:until])
    return times(values.size), values


# What is strange is found.

STRANGE: dict[str, Series] = {
    "a level that shifts": after(daily(), lambda x: x + 40),
    "a spike": after(daily(), lambda x: x + 60, CHANGE + 2),
    "another unit": after(daily(), lambda x: x * 1000),
    "a flat line": after(daily(), lambda x: x[0], CHANGE + 600),
    "another spread": after(daily(), lambda x: x + 4 * noise(x.size, 2)),
    "another period": after(
        daily(), lambda x: 50 + 10 * np.sin(6 * np.pi * times()[CHANGE:] / DAY_US) + noise(x.size, 2)
    ),
    "a day without samples": (times() + DAY_US * (np.arange(LENGTH) >= CHANGE), daily()),
    "a counter that starts again": (times(), np.cumsum(5 + noise()) - 20_000.0 * (np.arange(LENGTH) >= CHANGE)),
    "the first change ever": (times(), np.where(np.arange(LENGTH) == CHANGE, 1.0, 0.0)),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_strange_pages_soon_and_not_before(name: str) -> None:
    found = pages(STRANGE[name])
    assert [page for page in found if CHANGE <= page < CHANGE + 100]
    assert len([page for page in found if page < CHANGE]) <= 1


@pytest.mark.parametrize("name", STRANGE)
def test_what_stays_strange_becomes_ordinary_without_a_storm(name: str) -> None:
    assert len(pages(STRANGE[name])) <= 5


def without_a_day() -> Series:
    shape = np.where(times() // HOUR_US % 24 < 12, 80.0, 20.0) + noise()
    return after(shape, lambda x: 20 + noise(x.size, 2), CHANGE + 288)


def test_a_day_that_is_missing_in_a_daily_shape_pages() -> None:
    """Nothing leaves the range of the day: only the hour tells."""
    found = pages(without_a_day())
    assert [page for page in found if CHANGE <= page < CHANGE + 288]
    assert len([page for page in found if page < CHANGE]) <= 10


def test_without_the_views_of_day_and_week_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: every sample falls into the same hour."""
    whole = without_a_day()
    monkeypatch.setattr(scores, "HOUR_US", 10**18)
    said = ScoreModel(1, fast=False).follow(*(part[: CHANGE + 288] for part in whole))
    assert not [page for page in np.flatnonzero(exceedances(said)) if CHANGE <= page < CHANGE + 288]


def test_silence_is_said_before_the_next_sample_comes() -> None:
    quiet = ScoreModel(1)
    quiet.follow(times(1000), daily(n=1000))
    last, state = times(1000)[-1:], quiet.pack()
    rising = [float(quiet.silence(last + lasting)[0]) for lasting in (PERIOD_US, 3_600_000_000, DAY_US)]
    assert rising == sorted(rising)
    assert rising[0] < 1 < 3 < rising[2]
    assert quiet.pack() == state
    assert ScoreModel(1).silence(last).tolist() == [0.0]


# What is ordinary is not.

RANDOM = np.random.RandomState(7)


def autoregressive(share: float) -> np.ndarray:
    values = noise(seed=3)
    for i in range(1, LENGTH):
        values[i] += share * values[i - 1]
    return values


ORDINARY: dict[str, np.ndarray] = {
    "white noise": noise(),
    "a day": daily(),
    "short memory": autoregressive(0.9),
    "long memory": autoregressive(0.99),
    "a random walk": np.cumsum(noise()),
    "heavy tails": np.random.RandomState(4).standard_t(3, LENGTH),
    "counts": np.random.RandomState(5).poisson(np.exp(1 + np.sin(2 * np.pi * times() / DAY_US))).astype(float),
    "steps of a gauge": np.round(daily() / 5) * 5,
    "a ramp": np.arange(LENGTH, dtype=float),
    "two values in turn": np.arange(LENGTH) % 2 * 1.0,
    "a constant": np.full(LENGTH, 5.0),
    "large with little noise": 1e12 + noise(),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_data_reach_a_surprise_about_as_often_as_it_says(name: str) -> None:
    s = score_series(times(), ORDINARY[name])
    assert np.mean(s >= 3) <= 3e-3
    assert np.mean(s >= 2) <= 3e-2


def test_a_surprise_too_large_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: sums of surprises counted as twice as rare as they are."""
    monkeypatch.setattr(scores, "DECADE", scores.DECADE / np.float32(2))
    said = ScoreModel(1).follow(times(), ORDINARY["heavy tails"])  # machine code is told this constant
    assert np.mean(said >= 3) > 3e-3


def repeating() -> tuple[Series, list[int]]:
    """The same hump every few hours, at no fixed hour."""
    n = 7000
    values, rng, at, places = daily(n=n), np.random.RandomState(6), 1500, []
    while at < n - 100:
        values[at : at + 20] += 25 * np.sin(np.arange(20) / 20 * np.pi)
        places.append(at)
        at += int(rng.randint(100, 300))
    return (times(n), values), places


def heights(s: np.ndarray, places: list[int]) -> list[float]:
    return [float(s[place : place + 25].max()) for place in places]


def test_a_pattern_that_repeats_is_no_news_for_long() -> None:
    series, places = repeating()
    peaks = heights(score_series(*series), places)
    assert peaks[0] > 4
    assert np.median(peaks[-20:]) < 2.1


def test_tails_that_learn_nothing_would_go_on_calling_it_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: what the tails learn is lost once they know ordinary days; no peak or shape is remembered."""
    series, places = repeating()
    learning, calls = tails.two_sided, iter(range(10**6))
    monkeypatch.setattr(
        tails, "two_sided", lambda state, *given: learning(state if next(calls) < 1500 else state.copy(), *given)
    )
    monkeypatch.setattr(pattern_memory, "novelty", lambda state, together, fade: together)
    monkeypatch.setattr(pattern_memory, "discount_repeats", lambda *given: None)
    assert np.median(heights(ScoreModel(1, fast=False).follow(*series), places)[-20:]) >= 2.1


def met(shapes: list[np.ndarray], near: float) -> list[float]:
    """What is left of a surprise of 4 at each of `shapes`, met a day after one another."""
    state, left = score_columns.fresh(1), []
    for i, shape in enumerate(shapes):
        s = np.array([4.0], dtype=np.float32)
        pattern_memory.discount_repeats(state, shape[:, None], s, np.array([i * 288]), near, 100)
        left.append(round(float(s[0]), 2))
    return left


def shape(seed: int) -> np.ndarray:
    return 2 * np.random.RandomState(seed).normal(size=score_columns.FEATURES).astype(np.float32)


def test_a_shape_met_before_surprises_less_each_time_and_another_does_not() -> None:
    assert met([shape(1), shape(2), shape(1), shape(1) + np.float32(0.3), shape(3)], 0.5) == [4, 4, 3.7, 3.52, 4]


def test_shapes_never_near_enough_would_be_caught() -> None:
    assert met([shape(1), shape(1)], 1e-9) == [4, 4]


def test_the_shape_not_met_for_longest_makes_room() -> None:
    seventeen = [shape(seed) for seed in range(score_columns.SHAPES + 1)]
    assert met([*seventeen, seventeen[0], seventeen[2]], 0.5)[-2:] == [4, 3.7]


# Bad input: no crash, no silence, no storm.

BAD: dict[str, Series] = {
    "NaN among samples": (times(), np.where(RANDOM.rand(LENGTH) < 0.3, np.nan, daily())),
    "infinities": (times(), np.where(RANDOM.rand(LENGTH) < 0.01, np.inf, daily())),
    "both infinities in turn": (times(), np.where(np.arange(LENGTH) % 2, np.inf, -np.inf)),
    "nothing but NaN": (times(), np.full(LENGTH, np.nan)),
    "growth beyond all": (times(), np.exp(np.arange(LENGTH) / 20)),
    "the largest numbers": (times(), np.where(np.arange(LENGTH) % 3, 1.7e308, -1.7e308)),
    "the smallest numbers": (times(), daily() * 1e-307),
    "one stamp a year ahead": (times() + 365 * DAY_US * (np.arange(LENGTH) == CHANGE), daily()),
    "a clock that falls back a year": (times() - 365 * DAY_US * (np.arange(LENGTH) >= CHANGE), daily()),
    "every stamp twice": (np.repeat(times()[::2], 2), daily()),
    "one stamp for all": (np.full(LENGTH, START_US), daily()),
    "stamps in disorder": (RANDOM.permutation(times()), daily()),
    "stamps at both ends of time": (np.where(np.arange(LENGTH) % 2, 2**62, -(2**62)), daily()),
}


@pytest.fixture(scope="module")
def scores_of_bad_input() -> dict[tuple[str, bool], np.ndarray]:
    """The scores of each bad input by NumPy and by machine code; the series go side by side, as NumPy is slow alone."""
    t_us, values = (np.stack(parts, axis=1)[CHANGE - 1500 :] for parts in zip(*BAD.values(), strict=True))
    found = {}
    for fast in (True, False):
        scored = ScoreModel(len(BAD), fast=fast)
        rows = np.array([scored.step(t, row) for t, row in zip(t_us, values, strict=True)])
        found |= {(name, fast): rows[:, n] for n, name in enumerate(BAD)}
    return found


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("fast", [True, False])
def test_bad_input_neither_crashes_nor_storms(
    name: str, fast: bool, scores_of_bad_input: dict[tuple[str, bool], np.ndarray]
) -> None:
    values, s = BAD[name][1][CHANGE - 1500 :], scores_of_bad_input[name, fast]
    assert np.isfinite(s).tolist() == (np.abs(values) <= scores.LARGEST).tolist()
    assert np.sum(exceedances(s)) <= 3


@pytest.mark.parametrize("name", sorted(set(BAD) - {"growth beyond all", "the smallest numbers"}))
def test_after_bad_input_the_series_is_heard_again(name: str) -> None:
    scored = ScoreModel(1)
    scored.follow(*BAD[name])
    t_us, values = after(daily(), lambda x: x + 40)
    s = scored.follow(t_us + LENGTH * PERIOD_US, values)
    assert s[CHANGE : CHANGE + 100].max() >= DEFAULTS.threshold


@pytest.mark.parametrize("name", ["growth beyond all", "the smallest numbers"])
def test_a_unit_beyond_all_proportion_needs_a_new_start(name: str) -> None:
    scored, beside = ScoreModel(2), ScoreModel(1)
    t_us, values = after(daily(), lambda x: x + 40)
    for at in range(0, LENGTH, 20):
        scored.step(np.repeat(t_us[at], 2), np.repeat(BAD[name][1][at], 2))
        beside.step(t_us[at : at + 1], BAD[name][1][at : at + 1])
    scored.restart(np.array([1]))
    s = np.array(
        [scored.step(np.repeat(t + LENGTH * PERIOD_US, 2), np.repeat(v, 2)) for t, v in zip(t_us, values, strict=True)]
    )
    assert s[CHANGE : CHANGE + 100, 1].max() >= DEFAULTS.threshold
    assert s[:, 1].tobytes() == score_series(t_us + LENGTH * PERIOD_US, values).tobytes()
    assert s[:, 0].tobytes() == beside.follow(t_us + LENGTH * PERIOD_US, values).tobytes()


@needs_numba
def test_ten_years_of_hours_end_as_they_began() -> None:
    n = 87_600
    t_us = START_US + np.arange(n, dtype=np.int64) * HOUR_US
    values = 50 + 10 * np.sin(2 * np.pi * t_us / DAY_US) + noise(n)
    values[-50:] += 40
    s = score_series(t_us, values)
    assert np.sum(exceedances(s[:-50])) <= n * 1e-3
    assert s[-50:].max() >= DEFAULTS.threshold


def test_one_sample_and_none() -> None:
    assert score_series(times(1), np.array([3.0])).tolist() == [0.0]
    assert score_series(times(0), np.array([])).size == 0
    assert ScoreModel(0).step(times(0), np.array([])).size == 0


@pytest.mark.parametrize("shape", [(2,), (1, 1), ()])
def test_arrays_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        ScoreModel(1).step(np.zeros(shape, np.int64), np.zeros(shape))
    with pytest.raises(ValueError, match="shape"):
        ScoreModel(1).step(np.zeros(1, np.int64), np.zeros(shape))


def test_only_a_single_series_is_followed() -> None:
    with pytest.raises(ValueError, match="one series"):
        ScoreModel(2).follow(times(5), noise(5))


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


# Pages and settings.


def test_one_episode_pages_once_and_what_outlasts_the_quiet_pages_again() -> None:
    s = np.array([0, 5, 5, 0, 5, np.nan, 5, 5, 5])
    assert np.flatnonzero(exceedances(s, 3.0, 4)).tolist() == [1, 6]
    assert np.flatnonzero(exceedances(s, 3.0, 0)).tolist() == [1, 2, 4, 6, 7, 8]
    assert not exceedances(s, 6.0).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_samples": 0},
        {"memory_days": 0.0},
        {"visits": -1.0},
        {"tail": 0.5},
        {"tail": 0.0},
        {"forget": 0.1},
        {"echo": 0},
        {"near": 0.0},
        {"warmup": -1},
        {"quiet": -1},
        {"threshold": 0.0},
    ],
)
def test_settings_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 0|between|negative"):
        ScoreSettings(**wrong)
