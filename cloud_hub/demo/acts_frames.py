"""Demo acts about the camera: b. Split and c. Drift."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cloud_hub.demo import stream
from cloud_hub.demo.client import ActFailed, ActSkipped, until
from cloud_hub.demo.stream import Seen
from cloud_hub.demo.world import ASSETS, MODEL, World, now_us
from cloud_hub.inference.experts.onnx import open_expert
from shared.models.gate import Gate, Result, decide
from shared.protocol.codec import from_plain

MEASURE_FRAMES = 200
DARK = 0.3


def gate_in_force(world: World, but: Gate | None = None) -> Gate | None:
    """The gate that the device reports; None while it is still `but`."""
    plain = world.client.reported(world.camera, "gates").get(MODEL)
    gate = from_plain(Gate, plain) if plain else None
    return gate if gate != but else None


def _answered_frames(world: World, start_us: int, count: int, wait_s: float) -> list[Seen]:
    """Wait for the first `count` frames since `start_us` that have their final answer."""
    until(f"{count} frames are answered", lambda: len(stream.frames(world, start_us, now_us())) >= count, wait_s, 0.5)
    return stream.frames(world, start_us, now_us())[:count]


def _acted_frames(world: World, frames: list[Seen]) -> list[Seen]:
    """The frames again, when the device has said something of each that it did not keep."""
    start_us, wanted = frames[0].t_us, {frame.number for frame in frames}

    def acted() -> list[Seen]:
        again = [frame for frame in stream.frames(world, start_us, now_us()) if frame.number in wanted]
        return again if all(frame.by for frame in again) else []

    return until("the expert's answers act on the device", acted, 20, 0.5)


def _right(frames: list[Seen], answers: list[str]) -> float:
    return 100 * sum(answer == frame.truth for frame, answer in zip(frames, answers, strict=True)) / len(frames)


def _every_frame(world: World, frames: list[Seen]) -> list[str]:
    """The answers of the hub's expert model to all these frames."""
    expert = open_expert(str(ASSETS / "digits-expert"))
    data = [world.images[frame.number % len(world.images)].tobytes() for frame in frames]
    return [opinion.label for opinion in expert.answer((8, 8), data)]


def split(world: World) -> list[str]:
    """The gate keeps confident answers of the edge model; the expert answers the rest."""
    gate = until("the gate is calibrated and in force", lambda: gate_in_force(world), 60)
    frames = _acted_frames(world, _answered_frames(world, now_us(), MEASURE_FRAMES, 60))
    asked = [frame for frame in frames if frame.answer]
    if not asked or len(asked) == len(frames):
        raise ActFailed(f"of {len(frames)} frames {len(asked)} were escalated: the gate decides nothing")
    acted = [frame for frame in frames if frame.by == "expert"]
    if not acted or any(frame.said != frame.answer for frame in acted):
        raise ActFailed(f"{len(acted)} of the expert's answers became the device's own result")
    late = sum(frame.by == "fallback" for frame in frames)
    passes = sum(frame.kept and not frame.answer and frame.edge != frame.truth for frame in frames)
    edge_wrong = sum(frame.edge != frame.truth for frame in frames)
    per_frame = sum(frame.wire_bytes for frame in asked if not frame.kept) / max(
        1, sum(not frame.kept for frame in asked)
    )
    all_up = per_frame * len(frames)
    split_bytes = sum(frame.wire_bytes for frame in frames)
    return [
        f"gate: keep when top1-top2 > {gate.margin:.3f}, from n={gate.n} frames, k={gate.k}, alpha={gate.alpha}",
        f"{len(frames)} frames, {len(asked)} escalated ({100 * len(asked) / len(frames):.1f} %)",
        f"the expert's answer became the device's result for {len(acted)} of them within 5 s, {late} were late",
        f"right: edge only {_right(frames, [f.edge for f in frames]):.1f} %, split "
        f"{_right(frames, [f.final for f in frames]):.1f} %, every frame up "
        f"{_right(frames, _every_frame(world, frames)):.1f} %",
        f"false passes: edge only {edge_wrong}, split {passes}",
        f"bytes: split {split_bytes}, every frame up {all_up:.0f} (ratio {split_bytes / all_up:.2f}; "
        "these frames are 64 bytes, a camera's are 100 kB and more)",
    ]


def _fixed_keeps(gate: Gate, frame: Seen) -> bool:
    result = Result(label=frame.edge, margin=frame.margin, digest=gate.digest)
    return decide(gate, result, drifted=False, draw=1.0) == "keep"


def drift(world: World) -> list[str]:
    """The light fails. A fixed gate keeps wrong answers; Tidegate detects the drift and escalates."""
    gate = gate_in_force(world)
    if gate is None:
        raise ActSkipped("no gate is in force: act b was not shown")
    world.show_frames(DARK)
    try:
        return _in_the_dark(world, gate)
    finally:
        world.show_frames(1.0)


def _in_the_dark(world: World, gate: Gate) -> list[str]:
    start = now_us()
    _note(world, f"lamp 2 failed: brightness {DARK:.0%}")
    until("drift is noticed", lambda: _drift_noticed(world, start), 40, 0.25)
    frames = _answered_frames(world, start, MEASURE_FRAMES, 40)
    fixed = [frame for frame in frames if _fixed_keeps(gate, frame)]
    fixed_wrong = sum(frame.edge != frame.truth for frame in fixed)
    adaptive = [frame for frame in frames if frame.kept and not frame.answer]
    adaptive_wrong = sum(frame.edge != frame.truth for frame in adaptive)
    first = next(i for i, frame in enumerate(frames) if frame.reason == "drift")
    if adaptive_wrong >= fixed_wrong:
        raise ActFailed(f"Tidegate kept {adaptive_wrong} wrong answers, the fixed gate {fixed_wrong}")
    fresh = until("the gate is recalibrated in the dark", lambda: gate_in_force(world, but=gate), 40)
    event = until("the lamp's log line is an event", lambda: _events(world, "lamp 2"), 10)
    return [
        f"brightness {DARK:.0%} on {len(frames)} frames; drift noticed after {first} of them",
        f"wrong answers kept: fixed gate {fixed_wrong} of {len(fixed)}, tidegate {adaptive_wrong} of {len(adaptive)}",
        f"right: fixed gate {_right(frames, [_with_fixed(gate, f) for f in frames]):.1f} %, tidegate "
        f"{_right(frames, [f.final for f in frames]):.1f} %",
        f"new gate for the dark: margin {gate.margin:.3f} -> {fresh.margin:.3f}",
        f"the line's own log arrived as an event: '{event[0]['text'][-60:]}'",
    ]


def _with_fixed(gate: Gate, frame: Seen) -> str:
    return frame.edge if _fixed_keeps(gate, frame) else frame.final


def _drift_noticed(world: World, start: int) -> bool:
    rows = world.client.get("/escalations", device=world.camera, since_us=start, limit=50_000)
    return any(row["reason"] == "drift" for row in rows)


def _note(world: World, text: str) -> None:
    with world.line_log.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")


def _events(world: World, text: str) -> list[dict[str, Any]]:
    return [row for row in world.client.get(f"/devices/{world.canary}/events") if text in row["text"]]
