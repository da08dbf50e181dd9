"""Models on the device: bundles, the real inference child over real pipes, the slot that minds it, the gatekeeper."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from examiners.runners import examine_runner

from edge_agent.collectors import Frame
from edge_agent.config import ModelTable
from edge_agent.models.child import MAX_FLYING
from edge_agent.models.core.gating import ResultGate
from edge_agent.models.onnx import open_runner
from edge_agent.models.slot import ModelSlot
from edge_agent.models.worker import Failed, InferenceRequest, InferenceResult, Ready, Word, read, write
from edge_agent.runtime.event_loop import EventLoop
from shared.backoff import Backoff
from shared.bundle import load
from shared.codec import plain
from shared.errors import ModelError
from shared.gate import DriftTest, Gate, Result
from shared.messages import Escalation, Event, Sample

DIGITS = Path(__file__).parents[3] / "cloud_hub" / "demo" / "assets" / "digits-edge"
SHAPE = (8, 8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the committed bundle, to be spoilt."""
    return Path(shutil.copytree(DIGITS, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def with_model(folder: Path, content: bytes, **changes: Any) -> Path:
    """Another model file, truly named by its manifest."""
    (folder / "model.onnx").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    edit(folder, lambda manifest: manifest.update({"files": {"model.onnx": entry}} | changes))
    return folder


def rename(folder: Path, name: str) -> None:
    """The manifest names its file `name`."""
    edit(folder, lambda manifest: manifest.update(files={name: manifest["files"]["model.onnx"]}))


# -- bundles -------------------------------------------------------------------------------------------


def tampered(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def longer(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")


def missing(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def a_folder(folder: Path) -> None:
    missing(folder)
    (folder / "model.onnx").mkdir()


def leaving(folder: Path) -> None:
    shutil.copy(folder / "model.onnx", folder.parent / "model.onnx")
    rename(folder, "../model.onnx")


def absolute(folder: Path) -> None:
    rename(folder, str(folder / "model.onnx"))


def leaving_inside(folder: Path) -> None:
    rename(folder, "x/../../bundle/model.onnx")


def symlink_out(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    shutil.move(folder / "model.onnx", outside)
    (folder / "model.onnx").symlink_to(outside)


def symlinked_folder(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "elsewhere")
    (folder / "sub").symlink_to(folder.parent / "elsewhere")
    rename(folder, "sub/model.onnx")


def symlink_loop(folder: Path) -> None:
    missing(folder)
    (folder / "model.onnx").symlink_to("model.onnx")


def nul_in_name(folder: Path) -> None:
    rename(folder, "model\0.onnx")


def broken_json(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"name": ')


def no_utf8(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b'{"name": "\xff"}')


def deep_json(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"x": ' + "[" * 100_000)


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def wrong_type(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(labels="0123456789"))


def one_label(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(labels=["0"]))


SPOILERS = [
    tampered, longer, missing, a_folder, leaving, absolute, leaving_inside, symlink_out, symlinked_folder, symlink_loop,
    nul_in_name, broken_json, no_utf8, deep_json, no_manifest, wrong_type, one_label,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_bundle_that_is_not_what_its_manifest_says_is_refused(bundle: Path, spoil: Callable[[Path], None]) -> None:
    spoil(bundle)
    with pytest.raises(ModelError):
        load(bundle)


def test_a_link_within_the_bundle_is_no_way_out(bundle: Path) -> None:
    (bundle / "model.onnx").rename(bundle / "real.onnx")
    (bundle / "model.onnx").symlink_to("real.onnx")
    assert load(bundle).only(".onnx") == (DIGITS / "model.onnx").read_bytes()


def test_the_digest_is_of_the_files_alone(bundle: Path) -> None:
    before = load(bundle).manifest.digest
    edit(bundle, lambda manifest: manifest.update(version="2.0.0"))
    assert load(bundle).manifest.digest == before
    with_model(bundle, b"another")
    assert load(bundle).manifest.digest != before


# -- the child over real pipes -------------------------------------------------------------------------


class Child:
    """The worker as its own process; this test is the parent."""

    def __init__(self, folder: Path, **environment: str) -> None:
        command = [sys.executable, "-m", "edge_agent.models.worker", str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ) | environment
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin, self.process.stdout

    def word(self) -> Word:
        body = read(self._from)
        assert body is not None, "the child ended without a word"
        word: Word = msgspec.msgpack.decode(body, type=Word)  # type: ignore[arg-type]
        return word

    def ask(self, number: int, shape: tuple[int, int] = SHAPE, data: bytes = bytes(64)) -> InferenceResult:
        write(self._to, InferenceRequest(number, shape, data))
        answer = self.word()
        assert isinstance(answer, InferenceResult)
        return answer

    def end(self) -> int:
        self._to.close()
        assert read(self._from) is None
        self._from.close()
        return self.process.wait(20)


def test_the_child_is_ready_answers_and_ends_with_its_pipe() -> None:
    child = Child(DIGITS)
    manifest = load(DIGITS).manifest
    ready = child.word()
    assert ready == Ready(
        digest=manifest.digest, provider="CPUExecutionProvider", name=manifest.name, version=manifest.version
    )
    answer = child.ask(7)
    assert answer.number == 7
    assert answer.result is not None
    assert answer.result.label in manifest.labels
    for shape, data in (((4, 4), bytes(16)), (SHAPE, b"short"), ((0, 0), b"")):
        refused = child.ask(8, shape, data)
        assert (refused.number, refused.result) == (8, None)
        assert "frame is" in refused.reason
    assert child.ask(9) == InferenceResult(9, answer.result), "a refused frame changed nothing"
    assert child.end() == 0


@pytest.fixture
def marker(tmp_path: Path) -> tuple[str, Path]:
    """(folder for PYTHONPATH, file): a stranger's runner that leaves a file when bytes reach it."""
    home, file = tmp_path / "site", tmp_path / "reached"
    info = home / "marker-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: marker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tidegate.runners]\nmarker = marker_runner:open_runner\n")
    (home / "marker_runner.py").write_text(
        "import pathlib\n"
        "class Runner:\n"
        "    provider = 'marker'\n"
        "def open_runner(bundle):\n"
        f"    pathlib.Path({str(file)!r}).write_text(bundle.manifest.name)\n"
        "    print('a library that prints')\n"
        "    return Runner()\n"
    )
    return str(home), file


def marked(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(runner="marker"))


def test_verified_bytes_reach_the_runner_and_what_it_prints_harms_nobody(
    bundle: Path, marker: tuple[str, Path]
) -> None:
    marked(bundle)
    child = Child(bundle, PYTHONPATH=marker[0])
    assert isinstance(child.word(), Ready)
    assert marker[1].read_text() == "digits-edge"
    assert child.end() == 0


@pytest.mark.parametrize("spoil", [tampered, missing, leaving, symlink_out, deep_json, nul_in_name])
def test_unverified_bytes_never_reach_the_runner(
    bundle: Path, marker: tuple[str, Path], spoil: Callable[[Path], None]
) -> None:
    marked(bundle)
    spoil(bundle)
    child = Child(bundle, PYTHONPATH=marker[0])
    word = child.word()
    assert isinstance(word, Failed)
    assert word.reason
    assert child.end() == 1
    assert not marker[1].exists()


def test_an_unknown_runner_is_told_with_what_is_installed(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(runner="abacus"))
    child = Child(bundle)
    word = child.word()
    assert isinstance(word, Failed)
    assert "abacus" in word.reason
    assert "onnx" in word.reason
    child.end()


# -- the ONNX runner -----------------------------------------------------------------------------------


def test_onnx_passes_the_examiner() -> None:
    examine_runner(open_runner, DIGITS)


def classifier(shape: tuple[int, ...], value: float = 0.1) -> bytes:
    """An ONNX model that answers every frame with a constant of `shape`."""
    import onnx
    from onnx import TensorProto, helper

    size = 1
    for side in shape:
        size *= side
    constant = helper.make_tensor("c", TensorProto.FLOAT, shape, [value] * size)
    nodes = [helper.make_node("Constant", [], ["probabilities"], value=constant)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 8, 8))],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no model at all", "cannot load"),
        (b"", "cannot load"),
        (classifier((1, 3)), "3 outputs for 10 labels"),
        (classifier(()), "1 outputs for 10 labels"),
        (classifier((1, 20)), "20 outputs for 10 labels"),
    ],
    ids=["garbage", "empty", "too-few-outputs", "a-scalar", "too-many-outputs"],
)
def test_a_verified_model_that_does_not_fit_is_told_when_it_is_opened(bundle: Path, content: bytes, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        open_runner(load(with_model(bundle, content)))


@pytest.mark.parametrize("change", [{"output": "nothing"}, {"input": {"name": "x", "shape": [1, 8, 8], "scale": 1.0}},
                                    {"input": {"name": "image", "shape": [1, 9, 9], "scale": 1.0}}])  # fmt: skip
def test_a_manifest_that_does_not_fit_its_model_is_told_when_it_is_opened(bundle: Path, change: dict[str, Any]) -> None:
    edit(bundle, lambda manifest: manifest.update(change))
    with pytest.raises(ModelError, match="digits-edge"):
        open_runner(load(bundle))


def test_a_score_that_is_no_number_is_marked_as_invalid(bundle: Path) -> None:
    runner = open_runner(load(with_model(bundle, classifier((1, 10), float("nan")))))
    keeper = ResultGate("m")
    _, escalation = keeper.judge(frame(1), runner.run(SHAPE, bytes(64)), 0.5, lambda: "id")
    assert escalation is not None
    assert (escalation.reason, escalation.label, escalation.margin) == ("invalid", "", 0.0)


# -- the slot ------------------------------------------------------------------------------------------


def frame(number: int) -> Frame:
    return Frame(source="camera", number=number, t_us=number, shape=SHAPE, data=bytes(64))


class Bench:
    """A slot with a real child in a real loop, driven until something is so."""

    def __init__(self, folder: Path, watchdog_s: float = 30.0) -> None:
        self.loop, self.said, self.states = EventLoop(), list[Sample | Escalation | Event](), list[str]()
        table = ModelTable(name="line", bundle=str(folder), frames="camera", watchdog_s=watchdog_s)
        self.slot = ModelSlot(table, self.loop.post, self.said.extend, self._changed)
        self.slot._backoff = Backoff(0.01, 10.0, lambda: 1.0)
        self.loop.every(0.01, lambda: self.slot.tick(1))

    def _changed(self) -> None:
        self.states.append(self.slot.state["state"])

    def until(self, condition: Callable[[], bool]) -> None:
        done = False

        def look() -> None:
            nonlocal done
            if not done and condition():
                done = True
                self.loop.stop()

        timer = self.loop.every(0.005, look)
        self.loop.run()
        timer.period_s = 3600.0

    def running(self, starts: int = 1) -> None:
        self.until(lambda: self.slot.state["state"] == "running" and self.slot.state["starts"] == starts)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.slot.state["pid"], number)

    def escalations(self) -> list[tuple[int, str]]:
        return [(one.number, one.reason) for one in self.said if isinstance(one, Escalation)]

    def events(self) -> list[str]:
        return [one.text for one in self.said if isinstance(one, Event)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(DIGITS)
    made.slot.start()
    made.running()
    yield made
    made.slot.stop()


def test_a_model_answers_frames_through_its_gate(bench: Bench) -> None:
    digest = load(DIGITS).manifest.digest
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
    assert ["another try" in text for text in bench.events()] == [True]
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
    assert "answered nothing for 0.1 s" in bench.events()[0]
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
    for number in range(MAX_FLYING + 3):
        bench.slot.frame(frame(number))
    assert bench.slot.gatekeeper.skipped == 3
    bench.signal(signal.SIGCONT)
    bench.until(lambda: len(bench.escalations()) == MAX_FLYING)
    assert bench.escalations() == [(number, "no-gate") for number in range(MAX_FLYING)]


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


# -- the gatekeeper ------------------------------------------------------------------------------------

DIGEST = "sha256:d"


def gate(digest: str = DIGEST, **changes: Any) -> Gate:
    fields: dict[str, Any] = {"alpha": 0.02, "delta": 0.1, "n": 300, "k": 2, "margin": 0.0, "audit": 0.25}
    return Gate(digest=digest, **(fields | changes))


def result(margin: float = 0.9, digest: str = DIGEST, **features: float) -> Result:
    return Result(label="7", margin=margin, digest=digest, features=features)


def keeper(chosen: Gate | None) -> ResultGate:
    made = ResultGate("line")
    made.use(chosen)
    return made


def judged(guard: ResultGate, said: Result | None, draw: float = 0.9) -> tuple[dict[str, Any], str]:
    samples, escalation = guard.judge(frame(5), said, draw, lambda: "id-1")
    return {one.metric: one.value for one in samples}, escalation.reason if escalation else ""


def test_a_sure_answer_is_kept_as_samples_and_nothing_goes_up() -> None:
    guard = keeper(gate(margin=0.5))
    assert judged(guard, result(0.9)) == ({"line/label": "7", "line/score": 0.9, "line/frame": 5.0}, "")
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
        bench.slot.use_gate(plain(gate("sha256:other")))
    assert bench.slot.gatekeeper.gate is None
    mine = plain(gate(load(DIGITS).manifest.digest))
    assert bench.slot.use_gate(mine) == mine
    assert bench.slot.gatekeeper.gate is not None


def test_an_escalation_carries_the_frame_and_what_the_edge_thought() -> None:
    _, escalation = keeper(gate(margin=0.95)).judge(frame(5), result(0.9, mean=0.5), 0.9, lambda: "id-1")
    assert escalation == Escalation(
        id="id-1", t_us=5, model="line", digest=DIGEST, number=5, reason="unsure", label="7", margin=0.9, shape=SHAPE,
        frame=bytes(64), features={"mean": 0.5},
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
        "line/answered": 0.0, "line/drift": 0.0, "line/age_s": 1.235,
    }  # fmt: skip
    declared = {metric.name for metric in guard.metrics}
    assert counts.keys() <= declared
    assert judged(guard, result(0.9))[0].keys() <= declared
