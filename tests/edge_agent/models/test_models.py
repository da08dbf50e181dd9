"""Models under supervision: killed, hanging and restarted processes; other models while one serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import until
from simulators.model_bundles import DIGITS, Bench, frame, gate, with_model
from simulators.onnx_models import brightness, hanging, install_odd_runners, write_bundle

from edge_agent.collectors import Frame
from edge_agent.models.core.exclusion import CRASHES
from edge_agent.models.stream import MAX_IN_FLIGHT
from edge_agent.twin.core.document import Deferred
from shared.errors import ModelError
from shared.models.bundle import load, read_manifest
from shared.protocol.messages import Sample

BRIGHT, DARK = bytes([255]) * 64, bytes(64)


def picture(number: int, data: bytes = BRIGHT) -> Frame:
    return Frame(source="camera", number=number, t_us=number, shape=(8, 8, 1), data=data)


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", install_odd_runners(tmp_path / "site"))


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.stop()


def started(benches: list[Bench], folder: Path, **changes: Any) -> Bench:
    bench = Bench(folder, **changes)
    benches.append(bench)
    bench.stream.start()
    return bench


def test_a_model_answers_frames_through_its_gate(bench: Bench) -> None:
    digest = load(DIGITS).manifest.variant_digest("cpu-int8")
    state = {key: bench.state[key] for key in ("state", "starts", "digest", "runner", "provider", "variant", "reason")}
    assert state == {
        "state": "running", "starts": 1, "digest": digest, "runner": "onnx", "provider": "CPUExecutionProvider",
        "variant": "cpu-int8", "reason": "",
    }  # fmt: skip
    bench.stream.frame(frame(1))
    bench.until(lambda: bool(bench.escalations()))
    assert bench.escalations() == [(1, "no-gate")]
    bench.stream.gatekeeper.use(gate(digest, audit=0.0))
    bench.stream.frame(frame(2))
    bench.until(lambda: bench.stream.gatekeeper.kept == 1)
    label = next(one for one in bench.said if isinstance(one, Sample) and one.metric == "line/label")
    assert label.value in load(DIGITS).manifest.labels
    assert label.t_us == 2
    assert bench.samples("by") == ["edge"]


def test_a_killed_process_is_noticed_its_frames_go_up_and_another_is_started(bench: Bench) -> None:
    bench.signal(signal.SIGSTOP)  # so that the frames are surely in flight
    for number in (1, 2, 3):
        bench.stream.frame(frame(number))
    assert bench.escalations() == []
    bench.signal(signal.SIGKILL)
    bench.until(lambda: "failed" in bench.states)
    assert bench.escalations() == [(1, "no-model"), (2, "no-model"), (3, "no-model")]
    assert "SIGKILL" in bench.state["reason"]
    assert ["restart in" in text for text in bench.events()] == [True]
    bench.running(starts=2)
    assert bench.state["reason"] == ""
    bench.stream.frame(frame(5))
    bench.until(lambda: (5, "no-gate") in bench.escalations())


@pytest.mark.nightly
def test_a_process_that_dies_again_and_again_is_started_ever_more_slowly_until_it_answers(bench: Bench) -> None:
    backoff = bench.engine(bench.stream)._supervisor.backoff
    for starts, following in ((2, 0.02), (3, 0.04)):
        bench.signal(signal.SIGKILL)
        bench.running(starts)
        assert backoff._next == following, "being ready is not yet being well"
    bench.stream.frame(frame(1))
    bench.until(lambda: bool(bench.escalations()))
    assert backoff._next == 0.01


def test_a_model_that_hangs_on_a_frame_is_killed_and_started_again(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, write_bundle(tmp_path / "hangs", hanging()), watchdog_s=0.2)
    bench.running()
    hung = bench.state["pid"]
    bench.stream.frame(picture(1, DARK))
    bench.until(lambda: bool(bench.escalations()))
    assert bench.escalations() == [(1, "no-gate")]
    bench.stream.frame(picture(2, BRIGHT))
    bench.until(lambda: bench.state["starts"] == 2)
    assert bench.escalations()[1:] == [(2, "no-model")]
    assert "gave no result for 0.2 s and was killed" in bench.events()[0]
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    bench.running(starts=2)


def test_a_process_that_was_asked_nothing_for_long_does_not_hang(bench: Bench) -> None:
    process = bench.engine(bench.stream)._processes.serving
    assert process is not None
    process.heard_s -= 1000.0  # the camera was away for a quarter of an hour
    bench.stream.frame(frame(1))
    bench.until(lambda: bool(bench.escalations()))
    assert bench.escalations() == [(1, "no-gate")]
    assert bench.state["starts"] == 1


def test_of_the_frames_beyond_what_may_fly_the_newest_waits_and_older_ones_are_counted(bench: Bench) -> None:
    bench.signal(signal.SIGSTOP)
    for number in range(MAX_IN_FLIGHT + 3):
        bench.stream.frame(frame(number))
    assert bench.stream.gatekeeper.skipped == 2
    bench.signal(signal.SIGCONT)
    bench.until(lambda: len(bench.escalations()) == MAX_IN_FLIGHT + 1)
    assert [number for number, _ in bench.escalations()] == [*range(MAX_IN_FLIGHT), MAX_IN_FLIGHT + 2]


@pytest.mark.nightly
def test_a_restart_on_demand_sends_up_what_was_in_flight_just_once(bench: Bench) -> None:
    bench.signal(signal.SIGSTOP)
    bench.stream.frame(frame(1))
    bench.stream.model.restart()
    bench.running(starts=2)
    assert bench.escalations() == [(1, "no-model")]


@pytest.mark.nightly
def test_a_process_leaves_no_thread_behind(bench: Bench) -> None:
    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("inference-")]

    before = set(ours())
    bench.signal(signal.SIGKILL)
    bench.running(starts=2)
    bench.until(lambda: not before & set(ours()))
    assert len(ours()) == len(before)


def test_a_model_that_cannot_be_used_says_why_and_every_frame_goes_up(bundle: Path, benches: list[Bench]) -> None:
    bench = started(benches, with_model(bundle, b"no model at all"))
    bench.stream.frame(frame(1))
    bench.until(lambda: bench.state["state"] == "failed")
    assert "cannot load" in bench.state["reason"]
    assert "cannot load" in bench.events()[0]
    bench.until(lambda: bench.state["state"] == "failed")
    bench.stream.frame(frame(2))
    bench.until(lambda: len(bench.escalations()) == 2)
    assert bench.escalations() == [(1, "no-model"), (2, "no-model")]


# -- runners that misbehave ---------------------------------------------------------------------------


@pytest.mark.usefixtures("odd")
def test_a_segmentation_fault_is_named_and_the_agent_lives(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, write_bundle(tmp_path / "b", brightness(), runners=["segfaults"]))
    bench.running()
    bench.stream.frame(picture(1))
    bench.until(lambda: bool(bench.events()))
    assert "SIGSEGV" in bench.events()[0]
    assert bench.escalations() == [(1, "no-model")]


@pytest.mark.usefixtures("odd")
def test_a_runner_that_dies_while_it_is_opened_is_left_out_and_the_next_one_serves(
    tmp_path: Path, benches: list[Bench]
) -> None:
    bench = started(benches, write_bundle(tmp_path / "b", brightness(), runners=["segfaults_at_open", "onnx"]))
    bench.running(starts=2)
    assert bench.state["runner"] == "onnx"
    assert "its process died" in bench.state["refused"]["segfaults_at_open"]
    assert any("while it opened runner 'segfaults_at_open'" in text for text in bench.events())


@pytest.mark.usefixtures("odd")
def test_a_runner_that_crashes_on_each_frame_gives_way_to_the_next_one(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, write_bundle(tmp_path / "b", brightness(), runners=["segfaults", "onnx"]))
    for crash in range(1, CRASHES + 1):
        bench.running(starts=crash)
        assert bench.state["runner"] == "segfaults"
        bench.stream.frame(picture(crash))
        bench.until(lambda count=crash: len(bench.escalations()) == count)  # type: ignore[misc]
    bench.running(starts=CRASHES + 1)
    assert bench.state["runner"] == "onnx"
    assert "died 3 times in a row while it ran inputs" in bench.state["refused"]["segfaults"]
    assert any("'segfaults' is left out from now on" in text for text in bench.events())
    bench.stream.frame(picture(9))
    bench.until(lambda: (9, "no-gate") in bench.escalations())
    bench.stream.model.restart()
    bench.running(starts=CRASHES + 2)
    assert bench.state["runner"] == "segfaults", "a person may have mended it"


@pytest.mark.nightly
@pytest.mark.usefixtures("odd")
def test_a_runner_that_hangs_while_it_is_opened_is_killed_and_left_out(tmp_path: Path, benches: list[Bench]) -> None:
    folder = write_bundle(tmp_path / "b", brightness(), runners=["hangs_at_open", "onnx"])
    bench = started(benches, folder)
    process = bench.engine(bench.stream)._processes.next
    assert process is not None
    bench.until(lambda: process.opening == "hangs_at_open")
    process.started_s -= 1000.0
    bench.running(starts=2)
    assert bench.state["runner"] == "onnx"
    assert any("not ready within 120 s" in text for text in bench.events())


@pytest.mark.usefixtures("odd")
def test_an_answer_that_is_no_number_is_escalated_as_invalid(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, write_bundle(tmp_path / "b", brightness(), runners=["nan"]))
    bench.running()
    bench.stream.gatekeeper.use(gate(bench.state["digest"], audit=0.0))
    bench.stream.frame(picture(1))
    bench.until(lambda: bool(bench.escalations()))
    assert bench.escalations() == [(1, "invalid")]


@pytest.mark.usefixtures("odd")
def test_a_process_that_leaks_is_replaced_without_losing_a_frame(
    tmp_path: Path, benches: list[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.models.engine.REPLACE_S", 0.0)
    bench = started(benches, write_bundle(tmp_path / "b", brightness(), runners=["leaks"]), memory_mb=150.0)
    bench.running()
    first, sent = bench.state["pid"], 0

    def feed() -> None:
        nonlocal sent
        if bench.stream.model.in_flight == 0 and bench.state["pid"] == first:
            sent += 1
            bench.stream.frame(picture(sent))

    bench.loop.every(0.005, feed)
    bench.until(lambda: bench.state["pid"] != first)
    bench.until(lambda: len(bench.escalations()) == sent)
    assert {reason for _, reason in bench.escalations()} == {"no-gate"}
    assert any("more than the 150 MB of memory_mb" in text for text in bench.events())


# -- engines that are built on the device ---------------------------------------------------------------


@pytest.mark.usefixtures("odd")
def test_an_engine_is_built_in_the_background_while_another_runner_serves(tmp_path: Path, benches: list[Bench]) -> None:
    folder = write_bundle(tmp_path / "b", brightness(), runners=["needs_build", "onnx"])
    (tmp_path / "cache").mkdir()
    bench = started(benches, folder, cache_dir=str(tmp_path / "cache"))
    seen: list[tuple[str, Any]] = []
    bench.stream._changed = lambda: seen.append((bench.state["runner"], bench.state.get("build")))
    bench.until(lambda: bench.state.get("runner") == "needs_build")
    shares = [build["progress"] for runner, build in seen if build and runner == "onnx"]
    assert shares == sorted(shares)
    assert len(set(shares)) > 3, "progress is reported"
    assert bench.state["build"] == {"runner": "needs_build", "progress": 1.0, "phase": "done"}
    assert bench.state["refused"] == {}
    assert any("built in the background; CPUExecutionProvider serves" in text for text in bench.events())


@pytest.mark.usefixtures("odd")
def test_a_build_that_fails_is_reported_with_its_reason_and_the_other_runner_serves_on(
    tmp_path: Path, benches: list[Bench]
) -> None:
    folder = write_bundle(tmp_path / "b", brightness(), runners=["needs_build", "onnx"])
    bench = started(benches, folder, cache_dir=str(tmp_path / "nowhere"))
    bench.until(lambda: "failed" in bench.state.get("build", {}))
    assert "engine: cannot be written (No such file or directory)" in bench.state["build"]["failed"]
    assert (bench.state["state"], bench.state["runner"], bench.state["starts"]) == ("running", "onnx", 1)
    assert any("cannot be built" in text for text in bench.events())


@pytest.mark.usefixtures("odd")
def test_a_build_that_takes_too_long_is_killed_and_reported(tmp_path: Path, benches: list[Bench]) -> None:
    folder = write_bundle(tmp_path / "b", brightness(), runners=["needs_build", "onnx"])
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "endless").touch()
    bench = Bench(folder, cache_dir=str(tmp_path / "cache"))
    benches.append(bench)
    bench.pool._builds._limit_s = 1.0
    bench.stream.start()
    bench.until(lambda: "failed" in bench.state.get("build", {}))
    assert "longer than 1 s (inference.build_s) and was killed" in bench.state["build"]["failed"]
    assert (bench.state["state"], bench.state["runner"]) == ("running", "onnx")
    assert bench.pool._builds._process is None


def test_an_input_that_the_model_cannot_take_is_told_once(bench: Bench) -> None:
    small = Frame(source="camera", number=1, t_us=1, shape=(4, 4, 1), data=bytes(16))
    for _ in range(3):
        before = len(bench.escalations())
        bench.stream.frame(small)
        bench.until(lambda before=before: len(bench.escalations()) > before)  # type: ignore[misc]
    assert [text for text in bench.events() if "cannot take an input" in text] == [
        "the model cannot take an input, which is escalated: digits-edge: frame is (4, 4), the model takes (8, 8)"
    ]
    assert "frame is (4, 4)" in bench.state["refused_input"]


def test_a_process_whose_agent_was_killed_ends_even_while_it_hangs(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom edge_agent.models.child import InferenceChild\n"
        "from edge_agent.models.wire import ModelSpec\nready = []\n"
        "child = InferenceChild(ModelSpec(bundle=sys.argv[1], variants=('cpu-int8',)), ready.extend, print)\n"
        "while len(ready) < 2: time.sleep(0.01)\nprint(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(DIGITS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 500
        os.kill(pid, signal.SIGSTOP)
        agent.kill()
    until("it has ended", lambda: _ended(pid))


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# -- another model ----------------------------------------------------------------------------------------


def desired(bench: Bench, folder: Path) -> str:
    """Desire a bundle as the twin does, until it is applied or refused: the reason, or ''."""
    outcome: list[str] = []

    def use() -> None:
        try:
            bench.stream.model.use({"bundle": str(folder)})
            outcome.append("")
        except Deferred:
            pass
        except ValueError as error:
            outcome.append(str(error))

    bench.stream.retry = lambda document: use() if document == "models" else None  # type: ignore[method-assign]
    use()
    bench.until(lambda: bool(outcome))
    return outcome[0]


def test_a_change_of_the_model_loses_no_frame(tmp_path: Path, benches: list[Bench]) -> None:
    old = write_bundle(tmp_path / "old", brightness(layers=2))
    new = write_bundle(tmp_path / "new", brightness(layers=3))
    bench = started(benches, old)
    bench.running()
    before, sent = bench.state["digest"], 0

    def feed() -> None:
        nonlocal sent
        if bench.stream.model.in_flight < MAX_IN_FLIGHT:
            sent += 1
            bench.stream.frame(picture(sent))

    timer = bench.loop.every(0.002, feed)
    assert desired(bench, new) == ""
    assert bench.state["digest"] != before
    after = sent
    bench.until(lambda: sent > after + 20)
    timer.period_s = 3600.0
    bench.until(lambda: len(bench.escalations()) == sent)
    numbers = [number for number, _ in bench.escalations()]
    assert sorted(numbers) == list(range(1, sent + 1))
    assert {reason for _, reason in bench.escalations()} == {"no-gate"}
    assert bench.stream.gatekeeper.skipped == 0
    digests = [one.digest for one in bench.said if hasattr(one, "digest")]
    assert set(digests) == {before, bench.state["digest"]}
    bench.until(lambda: len(bench.pool._engines) == 1)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"no model at all", "cannot load"), (brightness(side=9), "Got: 8 Expected: 9")]
)
def test_a_model_that_cannot_be_used_is_refused_and_the_one_before_it_serves_on(
    tmp_path: Path, benches: list[Bench], content: bytes, reason: str
) -> None:
    bench = started(benches, write_bundle(tmp_path / "old", brightness()))
    bench.running()
    pid = bench.state["pid"]
    assert reason in desired(bench, write_bundle(tmp_path / "new", content))
    bench.stream.frame(picture(1))
    bench.until(lambda: bool(bench.escalations()))
    assert bench.escalations() == [(1, "no-gate")]
    assert (bench.state["pid"], bench.state["state"]) == (pid, "running")
    bench.until(lambda: len(bench.pool._engines) == 1)


@pytest.mark.parametrize(("wanted", "reason"), [
    ({"bundle": "nowhere"}, "manifest.json cannot be read"),
    ({"bundle": "old", "variant": "fp16"}, "no variant 'fp16'"),
    ({"bundle": 7}, "bundle"), ({"bundel": "old"}, "bundel"), ({"bundle": "\0"}, "null"),
])  # fmt: skip
def test_what_cannot_be_a_model_is_refused_before_a_process_is_started(
    tmp_path: Path, benches: list[Bench], wanted: dict[str, Any], reason: str
) -> None:
    bench = Bench(write_bundle(tmp_path / "old", brightness()))
    benches.append(bench)
    if isinstance(wanted.get("bundle"), str):
        wanted = wanted | {"bundle": str(tmp_path / wanted["bundle"])}
    with pytest.raises(ValueError, match=reason):
        bench.stream.model.use(wanted)
    assert bench.stream.model._next is None


@pytest.mark.usefixtures("odd")
def test_a_model_that_dies_on_its_first_input_gives_way_to_the_one_before(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, write_bundle(tmp_path / "old", brightness()))
    bench.running()
    old = bench.state["bundle"]
    assert desired(bench, write_bundle(tmp_path / "new", brightness(), runners=["segfaults"])) == ""
    asked: list[str] = []
    bench.stream.retry = asked.append  # type: ignore[method-assign]
    bench.stream.frame(picture(1))
    bench.until(lambda: bench.state["bundle"] == old)
    assert asked == ["models"]
    assert "SIGSEGV" in desired(bench, tmp_path / "new"), "the twin asks again and is told"
    bench.stream.frame(picture(2))
    bench.until(lambda: len(bench.escalations()) == 2)
    assert bench.escalations() == [(1, "no-model"), (2, "no-gate")]
    bench.until(lambda: len(bench.pool._engines) == 1)


def test_after_a_boot_the_desired_model_serves_and_the_configured_one_is_not_loaded(
    tmp_path: Path, benches: list[Bench]
) -> None:
    bench = Bench(write_bundle(tmp_path / "old", brightness()))
    benches.append(bench)
    with pytest.raises(Deferred):
        bench.stream.model.use({"bundle": str(write_bundle(tmp_path / "new", brightness(layers=1)))})
    bench.stream.start()
    bench.stream.frame(picture(1))
    bench.until(lambda: bool(bench.escalations()))
    assert bench.escalations() == [(1, "no-gate")]
    assert bench.state["bundle"] == str(tmp_path / "new")
    bench.until(lambda: len(bench.pool._engines) == 1)
    assert bench.pool._engines[0]._supervisor.starts == 1


def test_after_a_boot_with_a_broken_desired_model_the_configured_one_serves(
    tmp_path: Path, benches: list[Bench]
) -> None:
    bench = Bench(write_bundle(tmp_path / "old", brightness()))
    benches.append(bench)
    asked: list[str] = []
    bench.stream.retry = asked.append  # type: ignore[method-assign]
    with pytest.raises(Deferred):  # relative: beside the configured one
        bench.stream.model.use({"bundle": write_bundle(tmp_path / "new", b"no model").name})
    bench.stream.start()
    bench.stream.frame(picture(1))
    bench.running()
    assert bench.state["bundle"] == str(tmp_path / "old")
    assert "models" in asked
    assert bench.escalations() == [(1, "no-model")]


def test_a_pipe_in_place_of_a_manifest_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ModelError, match="is no file"):
        read_manifest(tmp_path)


def test_a_bundle_elsewhere_on_the_device_is_refused(bench: Bench, tmp_path: Path) -> None:
    assert "the folder of the configured one" in desired(bench, tmp_path)


# -- several models -------------------------------------------------------------------------------------


def test_streams_of_the_same_model_share_a_process_and_its_batches(tmp_path: Path, benches: list[Bench]) -> None:
    folder = write_bundle(tmp_path / "b", brightness())
    bench = started(benches, folder, batch=4, max_wait_ms=50.0)
    others = [bench.add(folder, name, batch=4, max_wait_ms=50.0) for name in ("two", "three", "four")]
    bench.running()
    assert {stream.state["pid"] for stream in others} == {bench.state["pid"]}
    for round_ in range(3):
        for stream in [bench.stream, *others]:
            stream.frame(picture(round_))
        bench.until(lambda n=round_: len(bench.escalations()) == 4 * (n + 1))  # type: ignore[misc]
    assert bench.stream.gatekeeper.escalated == others[0].gatekeeper.escalated == 3
    assert len({one.model for one in bench.said if hasattr(one, "model")}) == 4


def test_the_model_used_the_longest_ago_is_unloaded_and_loaded_again_when_it_is_needed(
    tmp_path: Path, benches: list[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.models.pool.RESIDENT_S", 0.0)
    bench = started(benches, write_bundle(tmp_path / "one", brightness()), budget_mb=100.0, memory_mb=90.0)
    bench.running()
    bench.stream.frame(picture(1))
    bench.until(lambda: len(bench.escalations()) == 1)
    other = bench.add(write_bundle(tmp_path / "two", brightness()), "two", memory_mb=90.0)
    bench.until(lambda: bench.engine(bench.stream).rss_mb > 20)
    other.frame(picture(2))
    bench.until(lambda: len(bench.escalations()) == 2)
    assert bench.state["state"] == "unloaded"
    assert "longest ago" in bench.state["reason"]
    assert other.state["state"] == "running"
    bench.stream.frame(picture(3))
    bench.until(lambda: len(bench.escalations()) == 3)
    assert bench.escalations() == [(1, "no-gate"), (2, "no-gate"), (3, "no-gate")]
    assert other.state["state"] == "unloaded"
