"""What is kept at the edge and what is escalated."""

from __future__ import annotations

import random
from typing import Any

import pytest
from simulators.model_bundles import (
    DIGEST,
    DIGITS,
    SHAPE,
    Bench,
    frame,
    gate,
    keeper,
)

from edge_agent.models.core.gating import ResultGate, result_samples
from shared.models.bundle import load
from shared.models.gate import DriftTest, Gate, Result
from shared.protocol.codec import plain
from shared.protocol.messages import Escalation


def result(margin: float = 0.9, digest: str = DIGEST, **features: float) -> Result:
    return Result(label="7", margin=margin, digest=digest, features=features)


def judged(guard: ResultGate, said: Result | None, draw: float = 0.9) -> tuple[dict[str, Any], str]:
    kept, escalation = guard.judge(frame(5), said, draw, lambda: "id-1")
    samples = result_samples("line", kept, ["1", "7"]) if kept else []
    return {one.metric: one.value for one in samples}, escalation.reason if escalation else ""


def test_a_sure_answer_is_kept_as_samples_and_nothing_goes_up() -> None:
    guard = keeper(gate(margin=0.5))
    assert judged(guard, result(0.9)) == (
        {"line/label": "7", "line/class": 1.0, "line/score": 0.9, "line/frame": 5.0, "line/by": "edge"}, "",
    )  # fmt: skip
    assert (guard.kept, guard.escalated) == (1, 0)


@pytest.mark.parametrize(
    ("chosen", "said", "reason"),
    [
        (gate(), None, "no-model"),
        (None, result(), "no-gate"),
        (gate(), result(digest="sha256:other"), "wrong-model"),
        (gate(margin=0.9), result(0.9), "unsure"),
        (gate(), result(-1.0), "invalid"),
        (gate(), result(float("nan")), "invalid"),
        (gate(), result(1.5), "invalid"),
    ],
)
def test_what_is_doubtful_goes_up_with_its_reason_and_no_sample(
    chosen: Gate | None, said: Result | None, reason: str
) -> None:
    guard = keeper(chosen)
    assert judged(guard, said) == ({}, reason)
    assert (guard.kept, guard.escalated) == (0, 1)


def test_an_audited_answer_is_kept_and_goes_up_too() -> None:
    guard = keeper(gate(audit=0.25))
    samples, reason = judged(guard, result(), draw=0.24)
    assert samples["line/label"] == "7"
    assert reason == "audit"
    assert (guard.kept, guard.escalated) == (1, 1)
    assert judged(guard, result(), draw=0.25)[1] == ""


def test_a_capture_sends_up_the_next_kept_frame_and_no_other() -> None:
    guard = keeper(gate(margin=0.5, audit=0.0))
    guard.capture()
    assert judged(guard, result(0.1)) == ({}, "unsure"), "that one went up anyway"
    samples, reason = judged(guard, result(0.9))
    assert (samples["line/label"], reason) == ("7", "captured")
    assert judged(guard, result(0.9))[1] == ""
    assert (guard.kept, guard.escalated) == (2, 2)


def test_a_gate_for_another_model_file_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="this device runs"):
        bench.stream.use_gate(plain(gate("sha256:other")))
    assert bench.stream.gatekeeper.gate is None
    mine = plain(gate(load(DIGITS).manifest.variant_digest("cpu-int8")))
    assert bench.stream.use_gate(mine) == mine
    assert bench.stream.gatekeeper.gate is not None


def test_an_escalation_carries_the_frame_and_what_the_edge_thought() -> None:
    _, escalation = keeper(gate(margin=0.95)).judge(frame(5), result(0.9, mean=0.5), 0.9, lambda: "id-1")
    assert escalation == Escalation(
        id="id-1", t_us=5, model="line", digest=DIGEST, number=5, reason="unsure", label="7", margin=0.9,
        shape=(*SHAPE, 1), frame=bytes(64), features={"mean": 0.5},
    )  # fmt: skip


def test_drift_sends_all_up_until_another_gate_is_in_force() -> None:
    guard = keeper(gate(panel=(DriftTest(feature="mean", at=0.5, p=0.5),), audit=0.0))
    reasons = [judged(guard, result(mean=0.9))[1] for _ in range(200)]
    assert reasons[0] == ""
    assert reasons[-1] == "drift"
    assert guard.drifted
    guard.use(guard.gate)
    assert guard.drifted, "the same gate again proves nothing"
    guard.use(gate(audit=0.0))
    assert judged(guard, result(mean=0.9))[1] == ""


def test_counts_add_up_and_are_declared() -> None:
    guard, rng = keeper(gate(margin=0.5)), random.Random(1)
    for _ in range(200):
        judged(guard, rng.choice([None, result(0.9), result(0.1), result(-1.0)]), rng.random())
    guard.skipped = 3
    counts = {one.metric: one.value for one in guard.counts(9, 1.23456)}
    audits = guard.kept + guard.escalated - 200
    assert audits > 0
    assert counts == {
        "line/kept": float(guard.kept), "line/escalated": float(guard.escalated), "line/skipped": 3.0,
        "line/answered": 0.0, "line/expired": 0.0, "line/drift": 0.0, "line/age_s": 1.235,
    }  # fmt: skip
    declared = {metric.name for metric in guard.metrics}
    assert counts.keys() <= declared
    assert judged(guard, result(0.9))[0].keys() <= declared
