"""Decides which model results the device keeps, with a bounded error rate, and detects drift of the input.

`decide` keeps a result when its margin exceeds the gate's margin and escalates all others: it fails
closed. `calibrate` computes the margin from frames that the hub's expert has labelled:
P(kept and disagreeing) <= alpha with confidence 1 - delta for i.i.d. frames (Bates et al. 2021, "Distribution-
free, risk-controlling prediction sets"; Angelopoulos et al., "Learn then Test"). `DriftDetector` tests the frames
themselves, without labels, with Bernoulli Shiryaev-Roberts e-detectors (Shin, Ramdas, Rinaldo 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared.protocol.messages import Box, EscalationReason, check_finite

__all__ = [
    "Box",
    "DriftDetector",
    "DriftTest",
    "Gate",
    "Result",
    "allowed_errors",
    "binomial_cdf",
    "calibrate",
    "decide",
    "drift_tests",
]

NEVER = 1.0
"""A margin that no result exceeds: escalate all."""

ALARM_EVIDENCE = 1e6
ODDS = 4.0
QUANTILES = (0.1, 0.5, 0.9)
DOUBT = 2.0
"""Deviations up to so many standard errors of a calibrated frequency are no drift: without this allowance every tenth
clean stream raises a false alarm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftTest:
    """A test without labels: in calibration a fraction `p` of frames had `feature` <= `at`, give or take `slack`."""

    feature: str
    at: float
    p: float
    slack: float = 0.0

    def __post_init__(self) -> None:
        check_finite("drift test", self.at, self.slack)
        if not 0.0 < self.p < 1.0:
            raise ValueError(f"p of {self.feature} must lie between 0 and 1, not {self.p}")
        if self.slack < 0:
            raise ValueError(f"slack of {self.feature} must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A calibrated gate for one model file: kept results disagree with the expert at most `alpha` of the time.

    `digest` identifies the file that it was calibrated on; `n` frames, `k` allowed errors; `audit` is the share
    of kept results that are also sent to the hub.
    """

    digest: str
    alpha: float
    delta: float
    n: int
    k: int
    margin: float
    audit: float = 0.01
    panel: tuple[DriftTest, ...] = ()

    def __post_init__(self) -> None:
        check_finite("margin", self.margin)
        if not (0 < self.alpha < 1 and 0 < self.delta < 1 and 0 <= self.audit <= 1 and 0 <= self.margin <= 1):
            raise ValueError("alpha, delta in (0, 1), audit and margin in [0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A model's output for one input.

    `margin` in 0..1 is how far the answer is from being another one: top1 - top2 of a classifier's probabilities,
    the distance from the threshold of a detector, a regression or an anomaly score. Outside of 0..1 it is invalid.
    `digest` is that of the variant's file. `values` are numeric outputs: a score, a count for each label.
    """

    label: str
    margin: float
    digest: str
    features: dict[str, float] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)


def decide(gate: Gate | None, result: Result | None, drifted: bool, draw: float) -> Literal["keep"] | EscalationReason:
    """`keep`, or the reason to escalate. `draw` is uniform in 0..1 and picks the audited share."""
    if result is None:
        return "no-model"
    if not math.isfinite(result.margin) or not 0.0 <= result.margin <= 1.0:
        return "invalid"
    if gate is None:
        return "no-gate"
    if gate.digest != result.digest:
        return "wrong-model"
    if drifted:
        return "drift"
    if result.margin <= gate.margin:
        return "unsure"
    return "audit" if draw < gate.audit else "keep"


def _binomial(k: int, n: int, p: float) -> float:
    """P(X = k) for X ~ Binomial(n, p), with logarithms: (1 - p)**n underflows to 0 for large n."""
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    return math.fsum(_binomial(i, n, p) for i in range(k + 1))


def allowed_errors(n: int, alpha: float, delta: float) -> int:
    """The largest k with BinomCDF(k; n, alpha) <= delta; -1 when n frames are too few."""
    k, total = -1, 0.0
    while k < n and (total := total + _binomial(k + 1, n, alpha)) <= delta:
        k += 1
    return k


def calibrate(margins: Sequence[float], agrees: Sequence[bool], alpha: float, delta: float) -> tuple[int, float]:
    """(k, margin) from frames that were all escalated; `agrees`: whether edge model and expert gave the same label."""
    k = allowed_errors(len(margins), alpha, delta)
    wrong = sorted((m for m, agree in zip(margins, agrees, strict=True) if not agree), reverse=True)
    if k < 0:
        return k, NEVER
    return k, wrong[k] if k < len(wrong) else 0.0


def drift_tests(features: Sequence[dict[str, float]]) -> tuple[DriftTest, ...]:
    """Drift tests at fixed quantiles of each feature, with the frequencies observed in calibration."""
    n = len(features)
    tests = []
    for name in sorted(set.intersection(*map(set, features))) if features else ():
        values = sorted(frame[name] for frame in features)
        for at in sorted({values[min(int(q * n), n - 1)] for q in QUANTILES}):
            share = sum(value <= at for value in values) / n
            p = min(max(share, 0.5 / n), 1 - 0.5 / n)
            tests.append(DriftTest(feature=name, at=at, p=p, slack=DOUBT * math.sqrt(p * (1 - p) / n)))
    return tuple(tests)


class DriftDetector:
    """Accumulates evidence that frames differ from calibration: the mean of two e-detectors for each test.

    Feed one frame for each part: several frames of the same part are not independent and cause false alarms.
    """

    def __init__(self, tests: Sequence[DriftTest]) -> None:
        self._tests: list[tuple[str, float, float, float]] = []
        for test in tests:
            more = min(test.p + test.slack, (test.p + 1) / 2)
            less = max(test.p - test.slack, test.p / 2)
            for p, ratio in ((more, ODDS), (less, 1 / ODDS)):
                odds = p / (1 - p) * ratio
                p1 = odds / (1 + odds)
                self._tests.append((test.feature, test.at, p1 / p, (1 - p1) / (1 - p)))
        self._sums = [0.0] * len(self._tests)
        self.evidence = 0.0
        self.drifted = False

    def update(self, features: dict[str, float]) -> bool:
        """Add the features of one frame; returns whether drift has been detected. A missing feature counts as drift."""
        if not self._tests:
            return self.drifted
        sums: list[float] = []
        for (feature, at, seen, unseen), before in zip(self._tests, self._sums, strict=True):
            value = features.get(feature)
            factor = max(seen, unseen) if value is None else seen if value <= at else unseen
            after = (before + 1.0) * factor
            sums.append(after if after < 1e12 else 1e12)
        self._sums = sums
        self.evidence = sum(sums) / len(sums)
        self.drifted = self.drifted or self.evidence >= ALARM_EVIDENCE
        return self.drifted
