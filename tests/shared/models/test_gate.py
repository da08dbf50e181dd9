"""The gate: it fails closed, keeps its bound in simulated worlds, and sees drift; seeded bugs are caught."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pytest

from shared.models.gate import (
    NEVER,
    DriftDetector,
    DriftTest,
    Gate,
    Result,
    allowed_errors,
    binomial_cdf,
    calibrate,
    decide,
    drift_tests,
)

GATE = Gate(digest="sha256:a", alpha=0.05, delta=0.1, n=300, k=9, margin=0.4, audit=0.1)
SURE = Result(label="ok", margin=0.9, digest="sha256:a")
Calibrate: TypeAlias = Callable[[Sequence[float], Sequence[bool], float, float], tuple[int, float]]
Keeps: TypeAlias = Callable[[float, float], bool]


# -- decide ------------------------------------------------------------------------------------------


def test_the_sure_result_of_a_calibrated_model_is_kept() -> None:
    assert decide(GATE, SURE, False, 0.5) == "keep"


@pytest.mark.parametrize(
    ("gate", "result", "drifted", "draw", "reason"),
    [
        (GATE, None, False, 0.5, "no-model"),
        (None, None, True, 0.0, "no-model"),
        (None, SURE, False, 0.5, "no-gate"),
        (GATE, replace(SURE, margin=math.nan), False, 0.5, "invalid"),
        (GATE, replace(SURE, margin=math.inf), False, 0.5, "invalid"),
        (GATE, replace(SURE, margin=-0.1), False, 0.5, "invalid"),
        (GATE, replace(SURE, margin=1.1), False, 0.5, "invalid"),
        (None, replace(SURE, margin=math.nan), False, 0.5, "invalid"),
        (GATE, replace(SURE, digest="sha256:b"), False, 0.5, "wrong-model"),
        (GATE, replace(SURE, digest=""), False, 0.5, "wrong-model"),
        (GATE, SURE, True, 0.5, "drift"),
        (GATE, replace(SURE, margin=0.4), False, 0.5, "unsure"),
        (GATE, replace(SURE, margin=0.0), False, 0.0, "unsure"),
        (replace(GATE, margin=NEVER), replace(SURE, margin=1.0), False, 0.5, "unsure"),
        (GATE, SURE, False, 0.0999, "audit"),
        (replace(GATE, audit=1.0), SURE, False, 0.9999, "audit"),
    ],
)
def test_everything_doubtful_is_escalated(
    gate: Gate | None, result: Result | None, drifted: bool, draw: float, reason: str
) -> None:
    assert decide(gate, result, drifted, draw) == reason


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 0}, {"alpha": 1}, {"delta": 0}, {"delta": math.nan}, {"audit": -0.1}, {"audit": 1.1}, {"margin": 1.1},
     {"margin": math.nan}, {"margin": -0.1}],
    ids=str,
)  # fmt: skip
def test_wrong_gates_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"alpha|margin"):
        replace(GATE, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0, math.nan])
def test_wrong_watches_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        DriftTest(feature="mean", at=1.0, p=p)
    with pytest.raises(ValueError, match="finite"):
        DriftTest(feature="mean", at=math.nan, p=0.5)
    with pytest.raises(ValueError, match="negative"):
        DriftTest(feature="mean", at=0.0, p=0.5, slack=-1.0)


# -- the binomial ------------------------------------------------------------------------------------


def test_binomial_agrees_with_exact_sums() -> None:
    for n, p in ((10, 0.3), (60, 0.05), (300, 0.02)):
        for k in range(0, n + 1, 7):
            exact = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
            assert binomial_cdf(k, n, p) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("n", "alpha"), [(460, 0.005), (230, 0.01), (114, 0.02)])
def test_the_least_number_of_frames_that_prove_anything(n: int, alpha: float) -> None:
    assert allowed_errors(n, alpha, 0.1) == 0
    assert allowed_errors(n - 2, alpha, 0.1) == -1
    assert calibrate([0.5] * (n - 2), [True] * (n - 2), alpha, 0.1) == (-1, NEVER)


@pytest.mark.parametrize("n", [0, 1, 300, 5_000, 20_000])
@pytest.mark.parametrize("alpha", [0.005, 0.05, 0.3])
def test_allowed_errors_is_the_largest_k_and_never_beyond_the_mean(n: int, alpha: float) -> None:
    """(1 - alpha)**n is 0 in floats from some n on; that must not read as 'any number of errors is fine'."""
    k = allowed_errors(n, alpha, 0.1)
    assert k <= n * alpha
    if n <= 5_000:
        assert k < 0 or binomial_cdf(k, n, alpha) <= 0.1
        assert binomial_cdf(k + 1, n, alpha) > 0.1
    else:
        assert k > n * alpha - 3 * math.sqrt(n * alpha)


# -- calibrate: the promise, in worlds whose risk is known ----------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Margins take the values of `grid`, alike often; at each a share `wrong` of the frames disagrees."""

    name: str
    grid: np.ndarray
    wrong: np.ndarray

    def risk(self, margin: float, keeps: Keeps) -> float:
        """The true P(kept and disagreeing)."""
        kept = np.array([keeps(margin, m) for m in self.grid.tolist()])
        return float((self.wrong * kept).mean())


FINE, COARSE = (np.arange(500) + 0.5) / 500, (np.arange(5) + 0.5) / 5
WORLDS = [
    World(name="unsure where wrong", grid=FINE, wrong=0.5 * np.exp(-3 * FINE)),
    World(name="overconfident where wrong", grid=FINE, wrong=0.3 * FINE**4),
    World(name="margins in steps", grid=COARSE, wrong=0.4 * (1 - COARSE)),
]
RUNS, ALPHA, DELTA = 1000, 0.05, 0.1
FRAMES = (60, 300)


def keeps(margin: float, seen: float) -> bool:
    gate = Gate(digest="d", alpha=ALPHA, delta=DELTA, n=1, k=0, margin=margin, audit=0.0)
    return decide(gate, Result(label="x", margin=seen, digest="d"), False, 0.5) == "keep"


def check_promise(calibrate: Calibrate, keeps: Keeps = keeps) -> None:
    """Risk above alpha in at most delta of the calibrations, but for three binomial standard errors."""
    most = RUNS * DELTA + 3 * math.sqrt(RUNS * DELTA * (1 - DELTA))
    for world in WORLDS:
        for n in FRAMES:
            rng, known = np.random.RandomState(n), {}
            broken = 0
            for _ in range(RUNS):
                at = rng.randint(0, world.grid.size, n)
                agrees = rng.random_sample(n) >= world.wrong[at]
                _, margin = calibrate(world.grid[at].tolist(), agrees.tolist(), ALPHA, DELTA)
                if margin not in known:
                    known[margin] = world.risk(margin, keeps)
                broken += known[margin] > ALPHA
            assert broken <= most, f"{world.name}: risk above alpha in {broken} of {RUNS} runs with {n} frames"


def test_calibration_keeps_its_promise() -> None:
    check_promise(calibrate)


def one_error_more(margins: Sequence[float], agrees: Sequence[bool], alpha: float, delta: float) -> tuple[int, float]:
    k = allowed_errors(len(margins), alpha, delta) + 1
    wrong = sorted((m for m, agree in zip(margins, agrees, strict=True) if not agree), reverse=True)
    return k, wrong[k] if k < len(wrong) else 0.0


def from_the_agreeing(
    margins: Sequence[float], agrees: Sequence[bool], alpha: float, delta: float
) -> tuple[int, float]:
    # As many of the agreeing frames as it says lie above: with frames sorted the wrong way round.
    k = allowed_errors(len(margins), alpha, delta)
    right = sorted(m for m, agree in zip(margins, agrees, strict=True) if agree)
    return k, right[k] if 0 <= k < len(right) else NEVER


def uncorrected(margins: Sequence[float], agrees: Sequence[bool], alpha: float, delta: float) -> tuple[int, float]:
    k = int(len(margins) * alpha)
    wrong = sorted((m for m, agree in zip(margins, agrees, strict=True) if not agree), reverse=True)
    return k, wrong[k] if k < len(wrong) else 0.0


@pytest.mark.parametrize("bug", [one_error_more, from_the_agreeing, uncorrected])
def test_the_promise_checker_catches(bug: Calibrate) -> None:
    with pytest.raises(AssertionError, match="risk above alpha"):
        check_promise(bug)


def test_the_promise_checker_catches_keeping_at_the_margin_itself() -> None:
    with pytest.raises(AssertionError, match="margins in steps"):
        check_promise(calibrate, lambda margin, seen: seen >= margin)


def check_tight(calibrate: Calibrate) -> None:
    """At most k disagreeing frames lie above the margin, and a lower margin would let in more: nothing is wasted."""
    rng = np.random.RandomState(5)
    for _ in range(50):
        margins, agrees = rng.random_sample(300).tolist(), (rng.random_sample(300) > rng.random_sample()).tolist()
        k, margin = calibrate(margins, agrees, ALPHA, DELTA)
        wrong = [m for m, agree in zip(margins, agrees, strict=True) if not agree]
        assert sum(m > margin for m in wrong) <= k
        assert margin == 0.0 or sum(m >= margin for m in wrong) > k


def test_the_margin_is_tight() -> None:
    check_tight(calibrate)
    with pytest.raises(AssertionError):
        check_tight(from_the_agreeing)
    with pytest.raises(AssertionError):
        check_tight(lambda m, a, alpha, delta: (calibrate(m, a, alpha, delta)[0], NEVER))


# -- drift ---------------------------------------------------------------------------------------------

NAMES = ("mean", "std", "score")


def frames(rng: np.random.RandomState, count: int, shift: float = 0.0) -> list[dict[str, float]]:
    return [dict(zip(NAMES, row, strict=True)) for row in rng.normal(shift, 1.0, (count, len(NAMES))).tolist()]


def first_alarm(drift: DriftDetector, stream: Sequence[dict[str, float]]) -> int | None:
    return next((i for i, features in enumerate(stream, 1) if drift.update(features)), None)


def check_clean(panel: Callable[[Sequence[dict[str, float]]], tuple[DriftTest, ...]]) -> None:
    for seed in range(20):
        rng = np.random.RandomState(seed)
        watches = panel(frames(rng, 300))
        assert len(watches) == 9
        assert first_alarm(DriftDetector(watches), frames(rng, 2000)) is None, f"seed {seed}"


def test_clean_streams_raise_no_drift() -> None:
    check_clean(drift_tests)
    with pytest.raises(AssertionError):  # the seeded bug: frequencies counted on 300 frames taken for exact
        check_clean(lambda frames: tuple(replace(watch, slack=0.0) for watch in drift_tests(frames)))


@pytest.mark.parametrize("shift", [-1.0, 1.0, 3.0])
def test_shifted_streams_are_seen_within_200_frames(shift: float) -> None:
    for seed in range(20):
        rng = np.random.RandomState(seed)
        drift = DriftDetector(drift_tests(frames(rng, 300)))
        assert first_alarm(drift, frames(rng, 500)) is None
        found = first_alarm(drift, frames(rng, 200, shift))
        assert found is not None, f"seed {seed}"


def test_drift_stays_until_it_is_recalibrated() -> None:
    rng = np.random.RandomState(1)
    drift = DriftDetector(drift_tests(frames(rng, 300)))
    assert first_alarm(drift, frames(rng, 200, 3.0)) is not None
    assert all(drift.update(features) for features in frames(rng, 300))


@pytest.mark.parametrize("broken", [{}, {"mean": 0.0, "std": 0.0}, dict.fromkeys(NAMES, math.nan)], ids=str)
def test_a_missing_feature_counts_as_drift(broken: dict[str, float]) -> None:
    drift = DriftDetector(drift_tests(frames(np.random.RandomState(1), 300)))
    assert first_alarm(drift, [broken] * 200) is not None


def test_a_feature_that_never_varied_is_watched_too() -> None:
    watches = drift_tests([{"mean": 5.0}] * 300)
    assert [(watch.feature, watch.at, watch.p) for watch in watches] == [("mean", 5.0, 1 - 0.5 / 300)]
    assert first_alarm(DriftDetector(watches), [{"mean": 5.0}] * 2000) is None
    assert first_alarm(DriftDetector(watches), [{"mean": 6.0}] * 200) is not None


def test_without_watches_there_is_no_evidence() -> None:
    drift = DriftDetector(drift_tests([]))
    assert not drift.update({"mean": 1.0})
    assert drift.evidence == 0.0
