"""Applies the gate to model results: keeps confident results and escalates the others. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_agent.collectors import FLOAT_BYTES, ModelInput, Window
from edge_agent.models.core.pixels import shrunk
from shared.models.gate import Box, DriftDetector, Gate, Result, decide
from shared.protocol.codec import MAX_PAYLOAD
from shared.protocol.messages import Escalation, EscalationReason, Metric, ModelOutput, ModelSource, Sample

MAX_ESCALATED_BYTES = MAX_PAYLOAD // 2
"""An escalation sends its input as base64, four bytes for three, in one message. Larger frames are made smaller."""
UNKNOWN = "unknown"
"""The label when neither the edge model nor the expert has an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """What a stream says of one input, and who says so; `score` is the edge's margin or the expert's confidence."""

    number: int
    t_us: int
    label: str
    score: float
    by: ModelSource
    values: dict[str, float] = field(default_factory=dict)
    boxes: Sequence[Box] = ()


def edge_result(item: ModelInput, result: Result, by: ModelSource = "edge") -> StreamResult:
    """The edge model's result as what the stream says."""
    return StreamResult(
        number=item.number, t_us=item.t_us, label=result.label, score=result.margin, by=by, values=result.values,
        boxes=result.boxes,
    )  # fmt: skip


def sound(result: Result | None) -> bool:
    """Whether there is a result with a valid margin."""
    return result is not None and math.isfinite(result.margin) and 0.0 <= result.margin <= 1.0


def value_name(name: str) -> str:
    """A value's name as the last part of a metric's name."""
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_") or "value"


OWN = ("label", "class", "score", "frame", "by")


def result_samples(model: str, said: StreamResult, labels: Sequence[str]) -> list[Sample]:
    """The samples of what a stream says. `class` is the label's place in the model's list, -1 for another one."""
    place = labels.index(said.label) if said.label in labels else -1
    values: dict[str, float | str] = {
        value_name(name): value for name, value in said.values.items() if math.isfinite(value)
    }
    values = {name: value for name, value in values.items() if name not in OWN} | {
        "label": said.label, "class": float(place), "score": round(said.score, 4), "frame": float(said.number),
        "by": said.by,
    }  # fmt: skip
    return [Sample(metric=f"{model}/{name}", t_us=said.t_us, value=value) for name, value in values.items()]


def output_message(model: str, said: StreamResult) -> ModelOutput:
    """What a stream says, as published over MQTT."""
    values = {name: value for name, value in said.values.items() if math.isfinite(value)}
    boxes: list[dict[str, str | float]] = [
        {"label": box.label, "score": box.score, "x": box.x, "y": box.y, "w": box.w, "h": box.h} for box in said.boxes
    ]
    return ModelOutput(
        model=model, number=said.number, t_us=said.t_us, label=said.label, score=said.score, by=said.by, values=values,
        boxes=boxes,
    )  # fmt: skip


class ResultGate:
    """Gate, drift detection and counters of one model. Fails closed: in doubt the input is escalated."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.gate: Gate | None = None
        self._drift = DriftDetector(())
        self.kept = self.escalated = self.skipped = self.answered = self.expired = 0
        self._captures = 0

    @property
    def metrics(self) -> list[Metric]:
        """Metadata of this model's metrics."""
        rows = (
            ("label", "state", "1", "what the stream says"), ("class", "gauge", "1", "place of the label, -1: unknown"),
            ("score", "score", "1", "margin of the edge model or confidence of the expert"),
            ("by", "state", "1", "edge, expert or fallback"),
            ("frame", "counter", "1", "number of the frame answered"), ("kept", "counter", "1", "answers kept"),
            ("escalated", "counter", "1", "frames sent up"), ("skipped", "counter", "1", "frames it was too slow for"),
            ("answered", "counter", "1", "answers that came back from the hub"),
            ("expired", "counter", "1", "escalations without an answer within the deadline"),
            ("drift", "score", "1", "1 when the frames no longer look as in calibration"),
            ("age_s", "gauge", "s", "time since the model's last answer"),
            ("latency_p50_s", "gauge", "s", "median time from a frame to its result"),
            ("latency_p99_s", "gauge", "s", "99th percentile of that time"),
            ("run_p50_s", "gauge", "s", "median time of a batch in the model"),
            ("run_p99_s", "gauge", "s", "99th percentile of that time"),
            ("memory_mb", "gauge", "MBy", "resident memory of the inference process"),
        )  # fmt: skip
        return [Metric(name=f"{self._model}/{n}", kind=k, unit=u, description=d) for n, k, u, d in rows]  # type: ignore[arg-type]

    @property
    def drifted(self) -> bool:
        """Whether drift was detected since the gate was set."""
        return self._drift.drifted

    def use(self, gate: Gate | None) -> None:
        """Set the gate; a different one resets drift detection."""
        if gate != self.gate:
            self.gate, self._drift = gate, DriftDetector(gate.panel if gate else ())

    def capture(self) -> None:
        """Escalate the next frame that the gate keeps."""
        self._captures += 1

    def judge(
        self, item: ModelInput, result: Result | None, draw: float, new_id: Callable[[], str]
    ) -> tuple[StreamResult | None, Escalation | None]:
        """What the stream says if the result is kept, the escalation of any other; an audited result gives both."""
        if result is not None and self.gate is not None and result.digest == self.gate.digest:
            self._drift.update(result.features)
        verdict = decide(self.gate, result, self.drifted, draw)
        if self._captures and verdict in {"keep", "audit"}:
            self._captures, verdict = self._captures - 1, "captured"
        kept = None
        if result is not None and verdict in {"keep", "audit", "captured"}:
            kept = edge_result(item, result)
            self.kept += 1
        if verdict == "keep":
            return kept, None
        self.escalated += 1
        return kept, self._escalation(item, result, verdict, new_id())

    def _escalation(self, item: ModelInput, result: Result | None, reason: EscalationReason, new_id: str) -> Escalation:
        known = result if sound(result) else None
        shape, data, dtype, color = _content(item)
        return Escalation(
            id=new_id,
            t_us=item.t_us,
            model=self._model,
            digest=result.digest if result else "",
            number=item.number,
            reason=reason,
            label=known.label if known else "",
            margin=known.margin if known else 0.0,
            shape=shape,
            frame=data,
            dtype=dtype,  # type: ignore[arg-type]
            color=color,  # type: ignore[arg-type]
            features=known.features if known else {},
        )

    def counts(self, now_us: int, age_s: float) -> list[Sample]:
        """Samples of the counters. `age_s` is the time since the model's last result."""
        values = {
            "kept": self.kept, "escalated": self.escalated, "skipped": self.skipped, "answered": self.answered,
            "expired": self.expired, "drift": float(self.drifted), "age_s": round(age_s, 3),
        }  # fmt: skip
        return [Sample(metric=f"{self._model}/{n}", t_us=now_us, value=float(v)) for n, v in values.items()]


def _content(item: ModelInput) -> tuple[tuple[int, int, int], bytes, str, str]:
    """(shape, bytes, type, colour) of what is escalated: frames made smaller, windows without their oldest rows."""
    if not isinstance(item, Window):
        small = shrunk(item, MAX_ESCALATED_BYTES)
        return small.shape, bytes(small.data), "uint8", small.color
    row = item.shape[1] * FLOAT_BYTES
    rows = min(item.shape[0], max(1, MAX_ESCALATED_BYTES // row))
    return (rows, item.shape[1], 1), bytes(item.data)[-rows * row :], "float32", "gray"
