"""Manages one model in the agent: its inference process, its gate and its reported state.

A process that exits is restarted with backoff; the watchdog kills one that hangs. While no model is running, every
frame is escalated.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from edge_agent import clock
from edge_agent.collectors import Frame
from edge_agent.commands.service import Verb, take_args
from edge_agent.config import ModelTable
from edge_agent.models.child import InferenceChild
from edge_agent.models.core.gating import ResultGate
from edge_agent.models.worker import Failed, InferenceResult, Ready, WorkerMessage
from edge_agent.twin.sync import TwinSync
from shared.backoff import Backoff
from shared.models.gate import Gate, Result
from shared.protocol.codec import from_plain, plain
from shared.protocol.messages import CommandRequest, Escalation, EscalationAnswer, Event, Sample

log = logging.getLogger(__name__)

MAX_ESCALATED = 256
"""Maximum number of escalations whose answers are counted; older ones are dropped."""

Deliver = Callable[[list[Sample | Escalation | Event]], None]


class ModelSlot:
    """Runs in the agent's thread; messages of the inference process are posted to it.

    `deliver` gets samples, escalations and events; `changed` is called when the reported state has changed.
    """

    def __init__(
        self,
        table: ModelTable,
        post: Callable[[Callable[[], None]], None],
        deliver: Deliver,
        changed: Callable[[], None],
    ) -> None:
        self.name, self.frames, self._table = table.name, table.frames, table
        self._post, self._deliver, self._changed = post, deliver, changed
        self.gatekeeper = ResultGate(table.name)
        self._backoff = Backoff(1.0, 60.0, random.random)
        self._child: InferenceChild | None = None
        self._answered_at = self._retry_at = clock.monotonic_s()
        self._starts = 0
        self._escalated: deque[str] = deque(maxlen=MAX_ESCALATED)
        self.state: dict[str, Any] = {"state": "starting"}

    def start(self) -> None:
        """Start the inference process; it sends Ready or Failed when it has loaded the model."""
        self._starts += 1
        child = InferenceChild(
            self._table.bundle,
            on_message=lambda message: self._post(lambda: self._handle_message(child, message)),
            on_end=lambda: self._post(lambda: self._ended(child)),
        )
        self._child, self._answered_at, self._retry_at = child, clock.monotonic_s(), float("inf")
        self._report(state="starting", starts=self._starts, pid=child.pid)

    def stop(self) -> None:
        """End the inference process; frames in flight are escalated."""
        child, self._child = self._child, None
        if child is not None:
            child.end()
            self._escalate_in_flight(child)

    def restart(self) -> None:
        """End the inference process and start another."""
        self.stop()
        self._backoff.reset()
        self.start()

    def restarted(self, request: CommandRequest) -> dict[str, str | float]:
        """Command `restart`."""
        take_args(request)
        self.restart()
        return {"restarted": self.name}

    def capture(self, request: CommandRequest) -> dict[str, str | float]:
        """Command `capture`."""
        take_args(request)
        self.gatekeeper.capture()
        return {"captured": f"the next frame of {self.name} that the gate keeps is escalated"}

    @property
    def verbs(self) -> dict[tuple[str, str], Verb]:
        """The commands of this model."""
        return {("capture", self.name): self.capture, ("restart", self.name): self.restarted}

    def register(self, twin: TwinSync) -> None:
        """Handle the desired gate of this model."""
        twin.handle("gates", self.name, self.use_gate)

    def use_gate(self, wanted: Any) -> Any:
        """Apply a desired gate; raises ValueError if it was calibrated on another model file."""
        gate = from_plain(Gate, wanted)
        digest = self.state.get("digest", gate.digest)
        if gate.digest != digest:
            raise ValueError(f"the gate is for model {gate.digest[:19]}, this device runs {digest[:19]}")
        self.gatekeeper.use(gate)
        return plain(gate)

    def frame(self, frame: Frame) -> None:
        """Run the model on a frame; without a running model the frame is escalated."""
        child = self._child
        if self.state["state"] == "failed" or child is None:
            self._judge(frame, None)
        else:
            if not child.in_flight:
                self._answered_at = clock.monotonic_s()  # idle until now: the age starts here
            if not child.submit(frame):
                self.gatekeeper.skipped += 1

    def answered(self, answer: EscalationAnswer) -> None:
        """Count the hub's answer to an escalation of this model."""
        if answer.id in self._escalated:
            self._escalated.remove(answer.id)
            self.gatekeeper.answered += 1

    def tick(self, now_us: int) -> None:
        """Deliver counters, check the watchdog, restart if due; called once a second."""
        now = clock.monotonic_s()
        self._deliver([*self.gatekeeper.counts(now_us, self.age_s(now))])
        if self._child is not None and self._child.in_flight and self.age_s(now) > self._table.watchdog_s:
            self._report_event("error", f"the model gave no result for {self._table.watchdog_s} s: restarted")
            self.restart()
        elif self._child is None and now >= self._retry_at:
            self.start()

    def age_s(self, now: float) -> float:
        """Seconds since the last result; 0 while idle."""
        waiting = self._child is not None and bool(self._child.in_flight)
        return now - self._answered_at if waiting or self._child is None else 0.0

    # -- messages of the inference process ---------------------------------------------------------

    def _handle_message(self, child: InferenceChild, message: WorkerMessage) -> None:
        if child is not self._child:
            return
        self._answered_at = clock.monotonic_s()
        if isinstance(message, Ready):
            self._report(
                state="running", digest=message.digest, provider=message.provider, version=message.version, reason=""
            )
        elif isinstance(message, Failed):
            self._report(state="failed", reason=message.reason[:500])
            self._report_event("error", message.reason)
        elif isinstance(message, InferenceResult):
            self._backoff.reset()  # not on Ready: a model that crashes on its first frame needs the backoff too
            frame = child.in_flight.pop(message.number, None)
            if frame is not None:
                self._judge(frame, message.result)

    def _ended(self, child: InferenceChild) -> None:
        if child is not self._child:
            return
        self._child = None
        wait = self._backoff.wait()
        self._retry_at = clock.monotonic_s() + wait
        if self.state["state"] != "failed":
            self._report(state="failed", reason="the inference process ended")
            self._report_event("error", f"the inference process ended; restart in {wait:.0f} s")
        self._escalate_in_flight(child)

    def _escalate_in_flight(self, child: InferenceChild) -> None:
        for frame in child.in_flight.values():
            self._judge(frame, None)

    def _judge(self, frame: Frame, result: Result | None) -> None:
        samples, escalation = self.gatekeeper.judge(frame, result, random.random(), clock.new_id)  # noqa: S311 - an audit draw
        if escalation is not None:
            self._escalated.append(escalation.id)
        self._deliver([*samples, *([escalation] if escalation else [])])

    def _report(self, **changes: Any) -> None:
        self.state = self.state | changes
        self._changed()

    def _report_event(self, level: Any, text: str) -> None:
        log.log(logging.ERROR if level == "error" else logging.INFO, "model.state", extra={"fields": {"reason": text}})
        self._deliver([Event(t_us=clock.now_us(), source=self.name, text=text[:1000], level=level)])
