"""What a stream says: regions, chains of models, the expert's answer and the fallback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators.model_bundles import Bench, gate
from simulators.onnx_models import LABELS, brightness, write_bundle

from edge_agent import clock
from edge_agent.collectors import Frame
from edge_agent.config import parse
from edge_agent.pipeline.core.limit_rules import LimitRules
from shared.errors import ConfigError
from shared.models.gate import Box, Result
from shared.protocol.messages import Escalation, EscalationAnswer
from shared.thresholds import Limits


def picture(number: int, left: int, right: int = 0) -> Frame:
    """8 x 8 pixels, `left` is the brightness of the left half."""
    return Frame(
        source="camera", number=number, t_us=number * 1000, shape=(8, 8, 1), data=bytes([left] * 4 + [right] * 4) * 8
    )


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.stop()


def started(benches: list[Bench], folder: Path, margin: float = 0.5, side: int = 8, **changes: Any) -> Bench:
    content = brightness(side)
    bench = Bench(write_bundle(folder / "b", content, side=side), **changes)
    benches.append(bench)
    bench.stream.start()
    bench.running()
    bench.stream.gatekeeper.use(gate(bench.state["digest"], margin=margin, audit=0.0))
    return bench


def escalated(bench: Bench, frame: Frame) -> Escalation:
    before = len(bench.escalations())
    bench.stream.frame(frame)
    bench.until(lambda: len(bench.escalations()) > before)
    return next(one for one in reversed(bench.said) if isinstance(one, Escalation))


def answer(escalation: Escalation, label: str = "bright", **values: float) -> EscalationAnswer:
    return EscalationAnswer(id=escalation.id, label=label, confidence=0.8, expert="big", values=values)


def test_the_experts_answer_becomes_what_the_stream_says(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, tmp_path, deadline_s=30.0, output=True, events=True)
    bench.stream.frame(picture(1, 255, 255))
    bench.until(lambda: bench.samples("label") == ["bright"])
    unsure = escalated(bench, picture(2, 128, 128))
    assert (unsure.reason, bench.samples("label")) == ("unsure", ["bright"])
    bench.stream.expert_answered(answer(unsure, "dark", size=2.5))
    assert bench.samples("label") == ["bright", "dark"]
    assert bench.samples("class") == [1.0, 0.0]
    assert bench.samples("by") == ["edge", "expert"]
    assert bench.samples("frame") == [1.0, 2.0]
    assert bench.samples("size") == [2.5]
    assert [(one.number, one.label, one.by) for one in bench.outputs] == [(1, "bright", "edge"), (2, "dark", "expert")]
    assert bench.events() == ["label bright (was none)", "label dark (was bright)"]
    bench.stream.expert_answered(answer(unsure, "bright"))
    assert len(bench.outputs) == 2, "a second answer changes nothing"
    assert bench.stream.gatekeeper.answered == 1


@pytest.mark.parametrize(("fallback", "label"), [("edge", "bright"), ("unknown", "unknown")])
def test_without_an_answer_in_time_the_fallback_holds(
    tmp_path: Path, benches: list[Bench], fallback: str, label: str
) -> None:
    bench = started(benches, tmp_path, deadline_s=0.1, fallback=fallback)
    late = escalated(bench, picture(1, 150, 150))
    bench.until(lambda: bool(bench.samples("label")))
    assert (bench.samples("label"), bench.samples("by")) == ([label], ["fallback"])
    bench.stream.expert_answered(answer(late, "dark"))
    assert bench.samples("label") == [label], "an answer after the deadline changes nothing"
    assert bench.stream.gatekeeper.expired == 1


def test_an_expert_that_cannot_take_the_frame_leaves_the_fallback(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, tmp_path, deadline_s=30.0, fallback="edge")
    bench.stream.expert_answered(answer(escalated(bench, picture(1, 150, 150)), ""))
    assert (bench.samples("label"), bench.samples("by")) == (["bright"], ["fallback"])


def test_without_a_deadline_an_answer_is_only_counted(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, tmp_path)
    bench.stream.expert_answered(answer(escalated(bench, picture(1, 128, 128))))
    assert bench.samples("label") == []
    assert bench.stream.gatekeeper.answered == 1


def test_a_limit_on_the_class_is_raised_by_the_experts_answer(tmp_path: Path, benches: list[Bench]) -> None:
    rules = LimitRules()
    assert rules.use_limits([Limits(metric="line/class", high=0.5)]) == ""
    bench = started(benches, tmp_path, deadline_s=30.0)
    bench.stream.expert_answered(answer(escalated(bench, picture(1, 128, 128)), "bright"))
    alarms = [alarm for one in bench.said if hasattr(one, "metric") for alarm in rules.judge(one, lambda: "id")]
    assert [(alarm.metric, alarm.state) for alarm in alarms] == [("line/class", "raised")]


def test_a_region_of_interest_is_all_that_the_model_sees(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, tmp_path, side=4, roi=[0.0, 0.0, 0.5, 0.5])
    bench.stream.frame(picture(1, 255, 0))
    bench.until(lambda: bench.samples("label") == ["bright"])
    bench.stream.frame(picture(2, 0, 255))
    bench.until(lambda: bench.samples("label") == ["bright", "dark"])


def test_the_boxes_of_a_detector_are_the_frames_of_a_classifier(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, tmp_path)
    part = bench.add(write_bundle(tmp_path / "part", brightness(4), side=4), "part", chained=True)
    part.start()
    bench.until(lambda: part.state["state"] == "running")
    part.gatekeeper.use(gate(part.state["digest"], margin=0.5, audit=0.0))
    bench.stream.consumers = [part]
    boxes = [Box(label="a", score=1.0, x=x, y=0.0, w=0.5, h=0.5) for x in (0.0, 0.5)]
    frame = picture(1, 255, 0)
    bench.stream._pass_on(frame, Result(label="a", margin=1.0, digest="d", boxes=boxes))
    bench.until(lambda: len(bench.samples("label", "part")) == 2)
    assert bench.samples("label", "part") == ["bright", "dark"]
    times = [one.t_us for one in bench.said if getattr(one, "metric", "") == "part/label"]
    assert times == [1000, 1001], "boxes of one frame are told apart by their times"


def test_latencies_are_metrics(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, tmp_path)
    bench.stream.frame(picture(1, 255, 255))
    bench.until(lambda: bench.samples("label") == ["bright"])
    bench.stream._latency.due_s = 0.0
    bench.until(lambda: bool(bench.samples("latency_p99_s")))
    assert 0 < bench.samples("run_p50_s")[0] <= bench.samples("latency_p99_s")[0] < 5
    assert bench.samples("memory_mb")[-1] > 20
    declared = {metric.name for metric in bench.stream.metrics()}
    assert {one.metric for one in bench.said if hasattr(one, "metric")} <= declared
    assert bench.stream.model.labels == LABELS


def test_a_latency_begins_before_the_process_can_see_the_frame(tmp_path: Path, benches: list[Bench]) -> None:
    bench = started(benches, tmp_path)
    child = bench.engine(bench.stream)._processes.serving.child  # type: ignore[union-attr]
    send, sent_s = child._send, list[float]()

    def record(data: bytes) -> bool:
        sent_s.append(clock.monotonic_s())
        return send(data)

    child._send = record  # type: ignore[method-assign]
    bench.stream.frame(picture(1, 255, 255))
    (flight,) = child.in_flight.values()
    assert flight.submitted_s <= sent_s[0]


HEAD = '[device]\nid = "a"\nprofile = "x86-64"\nstate_dir = "/s"\n[[collectors]]\nkind = "images"\nname = "camera"\n'


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        (["frames = 'other'"], "no collector is named 'other'"),
        (["frames = 'm1'", "frames = 'm0'"], "chain of models has no collector"),
        (["frames = 'camera'\nroi = [0, 0, 2, 1]"], "roi"),
        (["frames = 'camera'\nroi = [0.5, 0, 0.6, 1]"], "roi"),
        (["frames = 'camera'\nmax_fps = -1"], "max_fps"),
        (["frames = 'camera'\nfallback = 'guess'"], "fallback"),
    ],
)
def test_a_table_that_cannot_work_is_refused(tables: list[str], reason: str) -> None:
    models = "".join(f"[[models]]\nname = 'm{n}'\nbundle = '/b'\n{table}\n" for n, table in enumerate(tables))
    with pytest.raises(ConfigError, match=reason):
        parse(HEAD + models)


def test_a_chain_of_models_is_read() -> None:
    models = "".join(
        f"[[models]]\nname = '{n}'\nbundle = '/b'\nframes = '{f}'\n" for n, f in (("d", "camera"), ("c", "d"))
    )
    config, _ = parse(HEAD + models)
    assert [model.frames for model in config.models] == ["camera", "d"]
