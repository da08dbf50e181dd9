"""Models under supervision: killed, hanging and restarted children."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from simulators.model_bundles import (
    DIGITS,
    Bench,
    frame,
    gate,
    with_model,
)

from edge_agent.models.child import MAX_IN_FLIGHT
from shared.backoff import Backoff
from shared.models.bundle import load
from shared.protocol.messages import Sample


def test_a_model_answers_frames_through_its_gate(bench: Bench) -> None:
    digest = load(DIGITS).manifest.variant_digest("cpu-int8")
    assert bench.slot.state | {"pid": 0} == {
        "state": "running", "starts": 1, "pid": 0, "digest": digest, "provider": "CPUExecutionProvider",
        "version": "1.0.0", "reason": "",
    }  # fmt: skip
    bench.slot.frame(frame(1))
    bench.until(lambda: bool(bench.escalations()))
    assert bench.escalations() == [(1, "no-gate")]
    bench.slot.gatekeeper.use(gate(digest, audit=0.0))
    bench.slot.frame(frame(2))
    bench.until(lambda: bench.slot.gatekeeper.kept == 1)
    label = next(one for one in bench.said if isinstance(one, Sample) and one.metric == "line/label")
    assert label.value in load(DIGITS).manifest.labels
    assert label.t_us == 2


def test_a_killed_child_is_noticed_its_frames_go_up_and_another_is_started(bench: Bench) -> None:
    bench.signal(signal.SIGSTOP)  # so that the frames are surely in flight
    for number in (1, 2, 3):
        bench.slot.frame(frame(number))
    assert bench.escalations() == []
    bench.signal(signal.SIGKILL)
    bench.until(lambda: "failed" in bench.states)
    assert bench.escalations() == [(1, "no-model"), (2, "no-model"), (3, "no-model")]
    assert bench.slot.state["reason"] == "the inference process ended"
    assert ["restart in" in text for text in bench.events()] == [True]
    bench.slot.frame(frame(4))
    bench.running(starts=2)
    assert bench.slot.state["reason"] == ""
    bench.slot.frame(frame(5))
    bench.until(lambda: (5, "no-gate") in bench.escalations())
    assert [number for number, _ in bench.escalations()] == [1, 2, 3, 4, 5]


def test_a_child_that_dies_again_and_again_is_started_ever_more_slowly_until_it_answers(bench: Bench) -> None:
    backoff = bench.slot._backoff
    for starts, following in ((2, 0.02), (3, 0.04)):
        bench.signal(signal.SIGKILL)
        bench.running(starts)
        assert backoff._next == following, "being ready is not yet being well"
    bench.slot.frame(frame(1))
    bench.until(lambda: bool(bench.escalations()))
    assert backoff._next == 0.01


def test_a_child_that_hangs_is_ended_and_another_is_started() -> None:
    bench = Bench(DIGITS, watchdog_s=0.1)
    bench.slot.start()
    bench.running()
    hung = bench.slot.state["pid"]
    bench.signal(signal.SIGSTOP)
    bench.slot.frame(frame(1))
    bench.until(lambda: bench.slot.state["starts"] == 2)
    assert bench.escalations() == [(1, "no-model")]
    assert "gave no result for 0.1 s" in bench.events()[0]
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    bench.running(starts=2)
    bench.slot.stop()


def test_a_child_that_was_asked_nothing_for_long_does_not_hang(bench: Bench) -> None:
    bench.slot._answered_at -= 1000.0  # the camera was away for a quarter of an hour
    bench.slot.frame(frame(1))
    bench.slot.tick(1)
    assert bench.slot.state["starts"] == 1
    bench.until(lambda: bool(bench.escalations()))
    assert bench.escalations() == [(1, "no-gate")]


def test_frames_beyond_what_may_fly_are_skipped_and_counted(bench: Bench) -> None:
    bench.signal(signal.SIGSTOP)
    for number in range(MAX_IN_FLIGHT + 3):
        bench.slot.frame(frame(number))
    assert bench.slot.gatekeeper.skipped == 3
    bench.signal(signal.SIGCONT)
    bench.until(lambda: len(bench.escalations()) == MAX_IN_FLIGHT)
    assert bench.escalations() == [(number, "no-gate") for number in range(MAX_IN_FLIGHT)]


def test_a_restart_on_demand_sends_up_what_was_in_flight_just_once(bench: Bench) -> None:
    bench.signal(signal.SIGSTOP)
    bench.slot.frame(frame(1))
    bench.slot.restart()
    bench.running(starts=2)
    assert bench.escalations() == [(1, "no-model")]


def test_a_child_leaves_no_thread_behind(bench: Bench) -> None:
    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("inference-")]

    before = set(ours())
    bench.signal(signal.SIGKILL)
    bench.running(starts=2)
    bench.until(lambda: not before & set(ours()))
    assert len(ours()) == len(before)


def test_a_model_that_cannot_be_used_says_why_and_every_frame_goes_up(bundle: Path) -> None:
    bench = Bench(with_model(bundle, b"no model at all"))
    bench.slot._backoff = Backoff(3600.0, 3600.0, lambda: 1.0)
    bench.slot.start()
    bench.slot.frame(frame(1))
    bench.until(lambda: bench.slot._child is None)
    assert bench.slot.state["state"] == "failed"
    assert "cannot load" in bench.slot.state["reason"]
    assert "cannot load" in bench.events()[0]
    bench.slot.frame(frame(2))
    assert bench.escalations() == [(1, "no-model"), (2, "no-model")]
    bench.slot.stop()
