"""Applies the gate to model results: keeps confident results and escalates the others. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.collectors import Frame
from shared.gate import DriftDetector, Gate, Result, decide
from shared.messages import Escalation, EscalationReason, Metric, Sample


class ResultGate:
    """Gate, drift detection and counters of one model. Fails closed: in doubt the frame is escalated."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.gate: Gate | None = None
        self._drift = DriftDetector(())
        self.kept = self.escalated = self.skipped = self.answered = 0
        self._captures = 0

    @property
    def metrics(self) -> list[Metric]:
        """Metadata of this model's metrics."""
        rows = (
            ("label", "state", "1", "kept answer"), ("score", "score", "1", "margin of the kept answer"),
            ("frame", "counter", "1", "number of the frame answered"), ("kept", "counter", "1", "answers kept"),
            ("escalated", "counter", "1", "frames sent up"), ("skipped", "counter", "1", "frames it was too slow for"),
            ("answered", "counter", "1", "answers that came back from the hub"),
            ("drift", "score", "1", "1 when the frames no longer look as in calibration"),
            ("age_s", "gauge", "s", "time since the model's last answer"),
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
        self, frame: Frame, result: Result | None, draw: float, new_id: Callable[[], str]
    ) -> tuple[list[Sample], Escalation | None]:
        """The samples of a kept result, the escalation of any other; an audited result gives both."""
        if result is not None and self.gate is not None and result.digest == self.gate.digest:
            self._drift.update(result.features)
        verdict = decide(self.gate, result, self.drifted, draw)
        if self._captures and verdict in {"keep", "audit"}:
            self._captures, verdict = self._captures - 1, "captured"
        kept = result is not None and verdict in {"keep", "audit", "captured"}
        samples = self._samples(frame, result) if result is not None and kept else []
        self.kept += bool(samples)
        if verdict == "keep":
            return samples, None
        self.escalated += 1
        return samples, self._escalation(frame, result, verdict, new_id())

    def _samples(self, frame: Frame, result: Result) -> list[Sample]:
        values: dict[str, float | str] = {
            "label": result.label,
            "score": round(result.margin, 4),
            "frame": float(frame.number),
        }
        return [Sample(metric=f"{self._model}/{n}", t_us=frame.t_us, value=v) for n, v in values.items()]

    def _escalation(self, frame: Frame, result: Result | None, reason: EscalationReason, new_id: str) -> Escalation:
        sound = result is not None and 0.0 <= result.margin <= 1.0
        return Escalation(
            id=new_id,
            t_us=frame.t_us,
            model=self._model,
            digest=result.digest if result else "",
            number=frame.number,
            reason=reason,
            label=result.label if result and sound else "",
            margin=result.margin if result and sound else 0.0,
            shape=frame.shape,
            frame=bytes(frame.data),
            color=frame.color,
            features=result.features if result and sound else {},
        )

    def counts(self, now_us: int, age_s: float) -> list[Sample]:
        """Samples of the counters. `age_s` is the time since the model's last result."""
        values = {
            "kept": self.kept, "escalated": self.escalated, "skipped": self.skipped, "answered": self.answered,
            "drift": float(self.drifted), "age_s": round(age_s, 3),
        }  # fmt: skip
        return [Sample(metric=f"{self._model}/{n}", t_us=now_us, value=float(v)) for n, v in values.items()]
