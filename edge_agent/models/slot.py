"""One model's place in the agent: its child process, its gate, and its state as the twin reports it.

A child that ends is started again, ever more slowly; one that hangs is ended by the watchdog. While there
is no model, nothing is kept: every frame goes up.
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
from shared.codec import from_plain, plain
from shared.gate import Gate, Result
from shared.messages import CommandRequest, Escalation, EscalationAnswer, Event, Sample

log = logging.getLogger(__name__)

ASKED = 256
"""Escalations whose answers are waited for; older ones are not counted any more."""

Deliver = Callable[[list[Sample | Escalation | Event]], None]


class ModelSlot:
    """Runs in the agent's thread; the child's words are posted to it.

    `deliver` takes what the model has to say, `changed` is called when the reported state differs.
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
        self._asked: deque[str] = deque(maxlen=ASKED)
        self.state: dict[str, Any] = {"state": "starting"}

    def start(self) -> None:
        """Start the child; it says Ready or Failed when it has loaded the model."""
        self._starts += 1
        child = InferenceChild(
            self._table.bundle,
            on_message=lambda word: self._post(lambda: self._heard(child, word)),
            on_end=lambda: self._post(lambda: self._ended(child)),
        )
        self._child, self._answered_at, self._retry_at = child, clock.monotonic_s(), float("inf")
        self._report(state="starting", starts=self._starts, pid=child.pid)

    def stop(self) -> None:
        """End the child; what it had not answered goes up."""
        child, self._child = self._child, None
        if child is not None:
            child.end()
            self._give_up(child)

    def restart(self) -> None:
        """End the child, whatever it does, and start another."""
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
        return {"captured": f"the next frame of {self.name} that would be kept goes up"}

    @property
    def verbs(self) -> dict[tuple[str, str], Verb]:
        """The commands of this model."""
        return {("capture", self.name): self.capture, ("restart", self.name): self.restarted}

    def register(self, twin: TwinSync) -> None:
        """Handle the desired gate of this model."""
        twin.handle("gates", self.name, self.use_gate)

    def use_gate(self, wanted: Any) -> Any:
        """Desired gate: in force only for the very model file that it was calibrated on; raises ValueError."""
        gate = from_plain(Gate, wanted)
        digest = self.state.get("digest", gate.digest)
        if gate.digest != digest:
            raise ValueError(f"the gate is for model {gate.digest[:19]}, this device runs {digest[:19]}")
        self.gatekeeper.use(gate)
        return plain(gate)

    def frame(self, frame: Frame) -> None:
        """Ask the model about a frame; without one that answers, the frame goes up as it is."""
        child = self._child
        if self.state["state"] == "failed" or child is None:
            self._judge(frame, None)
        else:
            if not child.in_flight:
                self._answered_at = clock.monotonic_s()  # nothing was asked until now: it owes no answer
            if not child.submit(frame):
                self.gatekeeper.skipped += 1

    def answered(self, answer: EscalationAnswer) -> None:
        """The hub's answer to a frame that went up from here."""
        if answer.id in self._asked:
            self._asked.remove(answer.id)
            self.gatekeeper.answered += 1

    def tick(self, now_us: int) -> None:
        """Once a second: counters, watchdog, another try."""
        now = clock.monotonic_s()
        self._deliver([*self.gatekeeper.counts(now_us, self.age_s(now))])
        if self._child is not None and self._child.in_flight and self.age_s(now) > self._table.watchdog_s:
            self._happened("error", f"model answered nothing for {self._table.watchdog_s} s: started anew")
            self.restart()
        elif self._child is None and now >= self._retry_at:
            self.start()

    def age_s(self, now: float) -> float:
        """Seconds since the last answer; 0 while nothing is asked."""
        waiting = self._child is not None and bool(self._child.in_flight)
        return now - self._answered_at if waiting or self._child is None else 0.0

    # -- what the child says -----------------------------------------------------------------------

    def _heard(self, child: InferenceChild, word: WorkerMessage) -> None:
        if child is not self._child:
            return
        self._answered_at = clock.monotonic_s()
        if isinstance(word, Ready):
            self._report(state="running", digest=word.digest, provider=word.provider, version=word.version, reason="")
        elif isinstance(word, Failed):
            self._report(state="failed", reason=word.reason[:500])
            self._happened("error", word.reason)
        elif isinstance(word, InferenceResult):
            self._backoff.reset()  # not when it is ready: a model that dies of its first frame must be slowed too
            frame = child.in_flight.pop(word.number, None)
            if frame is not None:
                self._judge(frame, word.result)

    def _ended(self, child: InferenceChild) -> None:
        if child is not self._child:
            return
        self._child = None
        wait = self._backoff.wait()
        self._retry_at = clock.monotonic_s() + wait
        if self.state["state"] != "failed":
            self._report(state="failed", reason="the inference process ended")
            self._happened("error", f"the inference process ended; another try in {wait:.0f} s")
        self._give_up(child)

    def _give_up(self, child: InferenceChild) -> None:
        for frame in child.in_flight.values():
            self._judge(frame, None)

    def _judge(self, frame: Frame, result: Result | None) -> None:
        samples, escalation = self.gatekeeper.judge(frame, result, random.random(), clock.new_id)  # noqa: S311 - an audit draw
        if escalation is not None:
            self._asked.append(escalation.id)
        self._deliver([*samples, *([escalation] if escalation else [])])

    def _report(self, **changes: Any) -> None:
        self.state = self.state | changes
        self._changed()

    def _happened(self, level: Any, text: str) -> None:
        log.log(logging.ERROR if level == "error" else logging.INFO, "model.state", extra={"fields": {"reason": text}})
        self._deliver([Event(t_us=clock.now_us(), source=self.name, text=text[:1000], level=level)])
