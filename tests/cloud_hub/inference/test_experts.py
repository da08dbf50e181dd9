"""Experts on the shipped bundle: right answers, calibration from unchosen frames only, and nobody blocks another."""

from __future__ import annotations

import json
import shutil
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulators import births
from simulators.trained_models import model, node
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import EscalationRow
from cloud_hub.demo import digits
from cloud_hub.inference.experts import Expert, Opinion
from cloud_hub.inference.experts.calibration import UNSELECTED, recalibrated_gate
from cloud_hub.inference.experts.coverage import RECENT_US, configured, models_without_expert
from cloud_hub.inference.experts.onnx import OnnxExpert, open_expert
from cloud_hub.inference.experts.worker import ExpertWorker
from cloud_hub.models.writer import make_manifest, write_bundle
from cloud_hub.settings.experts import Experts, Vision
from cloud_hub.twins import service as twins
from shared.errors import ModelError
from shared.models.gate import Gate
from shared.models.manifest import TensorSpec, Variant
from shared.protocol.codec import decode
from shared.protocol.messages import Birth, Box, EscalationAnswer

NOW = 1_700_000_000_000_000
FRAMES = 40
SETTINGS = Experts(frames=FRAMES, alpha=0.1, delta=0.1)
BUNDLE = Path(str(resources.files("cloud_hub.demo"))) / "assets" / "digits-expert"
held_out = cache(digits.held_out)
"""Images and labels; loaded by the first test that wants them, for scikit-learn is large."""


@pytest.fixture(scope="module")
def expert() -> OnnxExpert:
    return open_expert(str(BUNDLE))


@pytest.fixture
def born(db: Database) -> Database:
    with db.write() as session:
        for name in ("press-1", "press-2"):
            births.born(session, Birth(device=name, session="s", epoch="e"), NOW)
    return db


def desk(db: Database, expert: Expert, settings: Experts = SETTINGS) -> ExpertWorker:
    return ExpertWorker(db, {"digits": expert}, settings, 32768)


def ask(db: Database, count: int, *, start: int = 0, at_us: int = NOW, **change: Any) -> None:
    """Escalations of held-out digits; the edge gave the right label with a margin that grows with the number."""
    images, labels = held_out()
    with db.write() as session:
        for n in range(start, start + count):
            row: dict[str, Any] = {
                "id": f"{change.get('device', 'press-1')}-{n:05}", "device": "press-1", "model": "digits",
                "digest": "d1", "number": n, "reason": "no-gate", "label": str(labels[n]), "margin": (n % 100) / 100,
                "height": 8, "width": 8, "frame": images[n].tobytes(), "features": {"mean": float(n % 7)},
                "t_us": at_us, "received_us": at_us + n,
            }  # fmt: skip
            session.add(EscalationRow(**(row | change)))


def gates(db: Database) -> dict[str, Any]:
    with db.read() as session:
        desired: dict[str, Any] = twins.load(session, "press-1", "gates").state.get("desired", {})
        return desired


# -- the shipped expert ----------------------------------------------------------------------------


def test_the_shipped_expert_reads_digits(expert: OnnxExpert) -> None:
    images, labels = held_out()
    opinions = expert.answer((8, 8), [image.tobytes() for image in images])
    right = np.mean([opinion.label == str(label) for opinion, label in zip(opinions, labels, strict=True)])
    assert right > 0.95
    assert all(0.0 <= opinion.confidence <= 1.0001 for opinion in opinions)


def test_its_name_tells_bundle_and_version(expert: OnnxExpert) -> None:
    manifest = json.loads((BUNDLE / "manifest.json").read_text("utf-8"))
    assert expert.name == f"{manifest['name']} {manifest['version']}"


def test_the_order_of_colours_and_the_type_of_a_frame_are_heeded(tmp_path: Path) -> None:
    """A classifier that says which channel is brightest, and one of windows."""
    nodes = [node("ReduceMax", "image", "scores", axes=[2, 3], keepdims=0)]
    made = model(nodes, {}, [("image", ("N", 3, 2, 2))], [("scores", ("N", 3))])
    open_ = write_expert(tmp_path / "rgb", made, ["red", "green", "blue"], (3, 2, 2), "NCHW", "scores")
    blue = bytes([0, 0, 9]) * 4
    assert [one.label for one in open_.answer((2, 2, 3), [blue], color="rgb")] == ["blue"]
    assert [one.label for one in open_.answer((2, 2, 3), [blue], color="bgr")] == ["red"]
    nodes = [node("ReduceMax", "image", "scores", axes=[1], keepdims=0)]
    made = model(nodes, {}, [("image", ("N", 4, 2))], [("scores", ("N", 2))])
    windows = write_expert(tmp_path / "window", made, ["a", "b"], (4, 2), "NTC", "scores")
    window = np.array([[0, 0], [0, 5], [0, 0], [1, 0]], np.float32).tobytes()
    assert [one.label for one in windows.answer((4, 2), [window], dtype="float32")] == ["b"]
    with pytest.raises(ModelError, match="window is 32 bytes"):
        windows.answer((4, 3), [window], dtype="float32")


def write_expert(
    folder: Path, made: Any, labels: list[str], shape: tuple[int, ...], layout: str, output: str
) -> OnnxExpert:  # fmt: skip
    content = made.SerializeToString()
    manifest = make_manifest(
        {"m.onnx": content}, name="m", version="1", task="classification", labels=labels,
        inputs=[TensorSpec(name="image", shape=shape, layout=layout)],
        outputs=[TensorSpec(name=output, shape=(len(labels),))], task_options={"activation": "softmax"},
        variants={"fp32": Variant(file="m.onnx", format="onnx", precision="fp32", runners=["onnx"])},
    )  # fmt: skip
    write_bundle(folder, manifest, {"m.onnx": content})
    return open_expert(str(folder))


def test_an_expert_whose_output_is_no_number_has_no_opinion(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMax", "image", "most", axes=[2, 3], keepdims=0), node("Sub", "most edge", "over"),
        node("Sqrt", "over", "scores"),
    ]  # fmt: skip
    made = model(nodes, {"edge": np.array(0.01)}, [("image", ("N", 3, 2, 2))], [("scores", ("N", 3))])
    open_ = write_expert(tmp_path / "rgb", made, ["red", "green", "blue"], (3, 2, 2), "NCHW", "scores")
    dark, lit = open_.answer((2, 2, 3), [bytes(12), bytes([9, 9, 99]) * 4], color="rgb")  # square roots of -0.01
    assert (dark.label, dark.confidence, dark.values) == ("", 0.0, {})
    assert lit.label == "blue"


@pytest.mark.parametrize("shape", [(8, 9), (0, 0), (-8, -8), (64, 1)])
def test_frames_of_another_shape_are_refused(expert: OnnxExpert, shape: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="frame"):
        expert.answer(shape, [bytes(64)])


def test_a_bundle_that_is_not_what_its_manifest_says(tmp_path: Path) -> None:
    shutil.copytree(BUNDLE, tmp_path, dirs_exist_ok=True)
    model = tmp_path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ModelError, match="is not the one"):
        open_expert(str(tmp_path))
    with pytest.raises(ModelError):
        open_expert(str(tmp_path / "nowhere"))


# -- the desk --------------------------------------------------------------------------------------


def test_every_escalation_is_answered_once(born: Database, expert: OnnxExpert) -> None:
    ask(born, 70, reason="unsure")
    messages = desk(born, expert).run_once().messages
    words = [decode(EscalationAnswer, m.payload) for m in messages]
    assert len({word.id for word in words}) == len(words) == 70
    assert {m.topic for m in messages} == {"tidegate/v1/things/press-1/escalations/answers"}
    assert desk(born, expert).run_once().messages == []
    with born.read() as session:
        rows = session.exec(select(EscalationRow).order_by(EscalationRow.id)).all()
    assert all(row.answer == word for row, word in zip(rows, [w.label for w in words], strict=True))
    assert {row.expert for row in rows} == {expert.name}


def test_a_frame_of_a_wrong_shape_is_answered_with_nothing_and_blocks_no_other(
    born: Database, expert: OnnxExpert, caplog: pytest.LogCaptureFixture
) -> None:
    ask(born, 1, height=4, width=16)
    ask(born, 3, start=1)
    words = [decode(EscalationAnswer, m.payload) for m in desk(born, expert).run_once().messages]
    answers = {word.id: (word.label, word.confidence) for word in words}
    assert answers["press-1-00000"] == ("", 0.0)
    assert [answers[f"press-1-{n:05}"][0] for n in (1, 2, 3)] == [str(held_out()[1][n]) for n in (1, 2, 3)]
    assert "expert.refused" in caplog.messages


def test_a_model_without_an_expert_is_reported_once_with_the_cure(
    born: Database, expert: OnnxExpert, caplog: pytest.LogCaptureFixture
) -> None:
    now = now_us()
    ask(born, 3, at_us=now, model="weld")
    ask(born, 1, start=9, at_us=now - 2 * RECENT_US, model="gone")
    worker = desk(born, expert)
    worker.run_once()
    ask(born, 2, start=4, at_us=now, model="weld")
    assert worker._coverage is not None
    worker._coverage._due_us = 0
    worker.run_once()
    logged = [record.fields for record in caplog.records if record.message == "expert.missing"]  # type: ignore[attr-defined]
    assert [fields["model"] for fields in logged] == ["weld"]
    assert "[experts.bundles]" in logged[0]["reason"]


def test_models_with_an_expert_of_any_kind_are_not_reported(born: Database) -> None:
    now = now_us()
    for start, name in enumerate(("digits", "gate", "weld")):
        ask(born, 1, start=start, at_us=now, model=name)
    vision = Vision(pool="p", labels=["a", "b"])
    with born.read() as session:
        names = configured(Experts(bundles={"digits": "/b"}, vision={"gate": vision}))
        assert models_without_expert(session, names, now) == ["weld"]


def test_a_frame_that_spoils_its_batch_spoils_no_other(born: Database) -> None:
    class Picky(RecordingExpert):
        def answer(self, shape: tuple[int, ...], frames: Any, **how: Any) -> list[Opinion]:
            if any(frame == bytes(64) for frame in frames):
                raise ModelError("class 9 has no label")
            return super().answer(shape, frames, **how)

    ask(born, 3)
    ask(born, 1, start=3, frame=bytes(64))
    words = [decode(EscalationAnswer, m.payload) for m in desk(born, Picky()).run_once().messages]
    assert sorted(word.label for word in words) == ["", "2 cars", "2 cars", "2 cars"]


def test_boxes_travel_with_the_answer(born: Database) -> None:
    class Finder(RecordingExpert):
        def answer(self, shape: tuple[int, ...], frames: Any, **how: Any) -> list[Opinion]:
            box = Box(label="car", score=0.9, x=0.1, y=0.2, w=0.3, h=0.4)
            return [Opinion(label="car:1", confidence=0.9, boxes=[box])] * len(frames)

    ask(born, 1)
    (message,) = desk(born, Finder()).run_once().messages
    assert [box.label for box in decode(EscalationAnswer, message.payload).boxes] == ["car"]


def test_frames_that_the_expert_could_not_judge_do_not_count(born: Database, expert: OnnxExpert) -> None:
    ask(born, FRAMES, height=4, width=16)
    ask(born, FRAMES - 1, start=FRAMES)
    desk(born, expert).run_once()
    assert gates(born) == {}


def test_a_model_that_no_expert_knows_waits_and_blocks_no_other(born: Database, expert: OnnxExpert) -> None:
    ask(born, 70, model="faces")
    ask(born, 2, start=70)
    assert len(desk(born, expert).run_once().messages) == 2


def test_an_unborn_device_gets_answers_and_no_twin(db: Database, expert: OnnxExpert) -> None:
    ask(db, FRAMES)
    assert len(desk(db, expert).run_once().messages) == FRAMES
    assert gates(db) == {}


# -- calibration -----------------------------------------------------------------------------------


def test_a_gate_is_due_at_just_so_many_frames(born: Database, expert: OnnxExpert) -> None:
    ask(born, FRAMES - 1)
    desk(born, expert).run_once()
    assert gates(born) == {}
    ask(born, 1, start=FRAMES - 1)
    messages = desk(born, expert).run_once().messages
    gate = gates(born)["digits"]
    assert (gate["n"], gate["digest"], gate["alpha"], gate["delta"]) == (FRAMES, "d1", 0.1, 0.1)
    assert any(m.topic.endswith("shadow/name/gates/update/delta") for m in messages)
    with born.read() as session:
        (row,) = trail.rows(session, kind="gate.calibrated")
    assert (row.actor, row.subject, row.device, row.detail["n"]) == ("hub", "digits", "press-1", FRAMES)


@pytest.mark.parametrize("reason", ["unsure", "audit", "invalid"])
def test_frames_that_a_gate_chose_do_not_count(born: Database, expert: OnnxExpert, reason: str) -> None:
    ask(born, FRAMES - 1)
    ask(born, 100, start=FRAMES, reason=reason)
    desk(born, expert).run_once()
    assert gates(born) == {}


@pytest.mark.parametrize("reason", UNSELECTED)
def test_frames_that_went_up_unasked_count(born: Database, expert: OnnxExpert, reason: str) -> None:
    ask(born, FRAMES, reason=reason)
    desk(born, expert).run_once()
    assert gates(born)["digits"]["n"] == FRAMES


@pytest.mark.parametrize("other", [{"device": "press-2"}, {"model": "faces"}, {"digest": "d2"}, {"label": ""}])
def test_frames_of_another_device_model_or_file_do_not_count(
    born: Database, expert: OnnxExpert, other: dict[str, str]
) -> None:
    ask(born, 5, **other)
    ask(born, FRAMES - 5, start=5)
    desk(born, expert).run_once()
    assert gates(born) == {}


def test_each_calibration_takes_new_frames_only_over_a_restart_too(born: Database, expert: OnnxExpert) -> None:
    ask(born, FRAMES)
    desk(born, expert).run_once()
    with born.read() as session:
        calibrated = trail.rows(session, kind="gate.calibrated")[0].t_us
        assert recalibrated_gate(session, "press-1", "digits", calibrated, SETTINGS) is None
    ask(born, FRAMES - 1, start=FRAMES, at_us=calibrated + 1_000_000, reason="drift")
    desk(born, expert).run_once()  # a new desk: the hub was restarted
    with born.read() as session:
        assert len(trail.rows(session, kind="gate.calibrated")) == 1
    ask(born, 1, start=2 * FRAMES, at_us=calibrated + 2_000_000, reason="drift")
    desk(born, expert).run_once()
    with born.read() as session:
        assert len(trail.rows(session, kind="gate.calibrated")) == 2


def test_an_edge_that_always_errs_keeps_nothing(born: Database, expert: OnnxExpert) -> None:
    ask(born, FRAMES, label="no digit", margin=1.0)
    desk(born, expert).run_once()
    assert gates(born)["digits"]["margin"] == 1.0


def test_a_device_whose_frames_differ_in_features_blocks_nobody(born: Database, expert: OnnxExpert) -> None:
    ask(born, 10, features={"mean": 1.0, "edges": 2.0})
    ask(born, FRAMES - 10, start=10)
    ask(born, FRAMES, device="press-2")
    assert len([m for m in desk(born, expert).run_once().messages if m.topic.endswith("/answers")]) == 2 * FRAMES
    gate = gates(born)["digits"]
    assert {watch["feature"] for watch in gate["panel"]} == {"mean"}
    with born.read() as session:
        assert "digits" in twins.load(session, "press-2", "gates").state["desired"]


def test_a_calibrated_gate_is_a_gate(born: Database, expert: OnnxExpert) -> None:
    import msgspec

    ask(born, FRAMES)
    desk(born, expert).run_once()
    gate = msgspec.convert(gates(born)["digits"], Gate)
    assert 0.0 <= gate.margin <= 1.0
    assert gate.panel


class RecordingExpert:
    """An expert that remembers what it was asked."""

    name = "recorder 1"

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], int, str, str]] = []

    def answer(
        self,
        shape: tuple[int, ...],
        frames: Any,
        *,
        dtype: str = "uint8",
        color: str = "gray",
        origins: Any = (),
    ) -> list[Opinion]:
        self.asked.append((shape, len(frames), dtype, color))
        return [Opinion(label="2 cars", confidence=0.9, values={"car": 2.0})] * len(frames)


def test_frames_of_other_channels_colours_and_types_are_asked_apart(born: Database) -> None:
    recorder = RecordingExpert()
    ask(born, 2)
    ask(born, 1, start=2, channels=3, color="rgb", frame=bytes(192))
    ask(born, 1, start=3, channels=3, color="bgr", frame=bytes(192))
    ask(born, 1, start=4, dtype="float32", height=4, width=2, frame=bytes(32))
    messages = desk(born, recorder).run_once().messages
    assert sorted(recorder.asked) == [
        ((4, 2), 1, "float32", "gray"), ((8, 8, 1), 2, "uint8", "gray"), ((8, 8, 3), 1, "uint8", "bgr"),
        ((8, 8, 3), 1, "uint8", "rgb"),
    ]  # fmt: skip
    answers = [decode(EscalationAnswer, message.payload) for message in messages if "answers" in message.topic]
    assert [answer.values for answer in answers] == [{"car": 2.0}] * 5
