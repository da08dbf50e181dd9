"""One `[[models]]` table: gets frames, has them run by an engine, and says what the results mean.

The gate keeps confident results and escalates the others; the hub's expert answers within the deadline, or the
fallback holds. While no model is running, every frame is escalated.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from edge_agent import clock
from edge_agent.collectors import Frame, ModelInput
from edge_agent.commands.service import Verb, take_args
from edge_agent.config import ModelTable
from edge_agent.models.child import InFlight
from edge_agent.models.core.gating import ResultGate, value_name
from edge_agent.models.core.latency import StreamLatency
from edge_agent.models.core.pixels import box_frames, cropped
from edge_agent.models.core.rate import RateControl
from edge_agent.models.expert_wait import ExpertWait
from edge_agent.models.pool import EnginePool
from edge_agent.models.serving import ServedModel
from edge_agent.models.stream_reports import StreamReports
from edge_agent.models.wire import ModelSpec
from edge_agent.twin.sync import TwinSync
from shared.models.gate import Gate, Result
from shared.protocol.codec import from_plain, plain
from shared.protocol.messages import CommandRequest, EscalationAnswer, Event, Metric, ModelOutput

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 4
"""Maximum frames of a stream that the engine has at a time."""
CHAIN_ROOM = 32
"""So many boxes of another model's frames wait; of a collector only the newest frame does."""


class ModelStream:
    """Runs in the agent's thread.

    `deliver` gets samples, escalations and events; `changed` is called when the reported state has changed; `output`
    publishes what the stream says, for machines on site. `consumers` are the streams of models that get this model's
    boxes.
    """

    def __init__(
        self,
        table: ModelTable,
        spec: ModelSpec,
        pool: EnginePool,
        deliver: Callable[[list[Any]], None],
        changed: Callable[[], None] = lambda: None,
        output: Callable[[ModelOutput], object] = lambda _message: None,
        chained: bool = False,
    ) -> None:
        self.name, self.frames, self._table = table.name, table.frames, table
        self._deliver, self._changed = deliver, changed
        self.gatekeeper = ResultGate(table.name)
        self.consumers: list[ModelStream] = []
        self._rate: RateControl[ModelInput] = RateControl(table.max_fps, CHAIN_ROOM if chained else 1)
        self._reports = StreamReports(table, deliver, output)
        self._expert = ExpertWait(table, self.gatekeeper, lambda said: self._reports.report(said, self.model.labels))
        self._latency = StreamLatency(clock.monotonic_s())
        self._twin: TwinSync | None = None
        self._digest = ""
        self._spec = spec
        self.model = ServedModel(spec, pool, self)

    # -- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the model."""
        self.model.start()

    def stop(self) -> None:
        """Give up what waits: it is escalated. The pool ends the processes."""
        for item in self._rate.clear():
            self._judge(item, None)

    def restart(self, request: CommandRequest) -> dict[str, str | float]:
        """Command `restart`."""
        take_args(request)
        self.model.restart()
        return {"restarted": self.name}

    def capture(self, request: CommandRequest) -> dict[str, str | float]:
        """Command `capture`."""
        take_args(request)
        self.gatekeeper.capture()
        return {"captured": f"the next frame of {self.name} that the gate keeps is escalated"}

    @property
    def verbs(self) -> dict[tuple[str, str], Verb]:
        """The commands of this model."""
        return {("capture", self.name): self.capture, ("restart", self.name): self.restart}

    @property
    def state(self) -> dict[str, Any]:
        """The reported state of the model."""
        return self.model.state

    def metrics(self, values_before: Sequence[str] = ()) -> list[Metric]:
        """Metadata of this stream's metrics, with the values of the loaded model, or else of the one before."""
        own = self.gatekeeper.metrics
        names = {metric.name for metric in own}
        values = {f"{self.name}/{value_name(name)}" for name in self.model.values or values_before} - names
        return own + [Metric(name=name, description="value of the model's results") for name in sorted(values)]

    # -- desired state -------------------------------------------------------------------------------

    def register(self, twin: TwinSync) -> None:
        """Handle the desired gate and the desired bundle of this model."""
        self._twin = twin
        twin.handle("gates", self.name, self.use_gate)
        own = {"bundle": self._spec.bundle, "variant": self._table.variant}
        twin.handle("models", self.name, self.model.use, own=own)

    def use_gate(self, wanted: Any) -> Any:
        """Apply a desired gate; raises ValueError if it was calibrated on another model file."""
        gate = from_plain(Gate, wanted)
        digest = self.state.get("digest", gate.digest)
        if gate.digest != digest:
            raise ValueError(f"the gate is for model {gate.digest[:19]}, this device runs {digest[:19]}")
        self.gatekeeper.use(gate)
        return plain(gate)

    def retry(self, document: str) -> None:
        """Have the desired state of this model in `document` applied again."""
        if self._twin is not None:
            self._twin.retry(document, self.name)

    # -- frames --------------------------------------------------------------------------------------

    def frame(self, item: ModelInput) -> None:
        """Run the model on an input; without a running model it is escalated."""
        if self._table.roi and isinstance(item, Frame):
            part = cropped(item, self._table.roi)
            if part is None:
                return
            item = part
        self._rate.offer(item)
        self.gatekeeper.skipped = self._rate.dropped
        self._pump()

    def _pump(self) -> None:
        """Submit what waits, as far as rate and engine allow."""
        while self.model.in_flight < MAX_IN_FLIGHT:
            now = clock.monotonic_s()
            item = self._rate.next(now)
            if item is None:
                return
            outcome = self.model.submit(item)
            if outcome == "full":
                return
            self._rate.passed(now)
            if outcome == "down":
                self._judge(item, None)

    def answered(self, flight: InFlight, result: Result | None, reason: str, run_s: float) -> None:
        """The result of an input."""
        self.model.done()
        if result is not None:
            self._latency.add(clock.monotonic_s() - flight.submitted_s, run_s)
        elif reason:
            log.debug("model.no_result", extra={"fields": {"model": self.name, "reason": reason}})
        self._judge(flight.input, result)
        if result is not None and self.consumers and isinstance(flight.input, Frame):
            self._pass_on(flight.input, result)
        self._pump()

    def _pass_on(self, frame: Frame, result: Result) -> None:
        """Give the boxes to the models that take them."""
        for part in box_frames(frame, result.boxes, self.name):
            for consumer in self.consumers:
                consumer.frame(part)

    # -- results -------------------------------------------------------------------------------------

    def _judge(self, item: ModelInput, result: Result | None) -> None:
        said, escalation = self.gatekeeper.judge(item, result, random.random(), clock.new_id)  # noqa: S311 - an audit draw
        if said is not None:
            self._reports.report(said, self.model.labels)
        if escalation is not None:
            self._deliver([escalation])
            self._expert.wait(escalation, said, item, result)

    def expert_answered(self, answer: EscalationAnswer) -> None:
        """The hub's answer to an escalation; of this model or of another one."""
        self._expert.answered(answer)

    # -- once a second -------------------------------------------------------------------------------

    def tick(self, now_us: int) -> None:
        """Deliver counters, end waits for the expert, submit what waits."""
        now = clock.monotonic_s()
        self._expert.expire(now)
        self.model.tick()
        self._pump()
        self._deliver([*self.gatekeeper.counts(now_us, self.model.age_s(now))])
        self._deliver(self._latency.samples(self.name, now_us, now, self.model.rss_mb))

    # -- the engine ----------------------------------------------------------------------------------

    def model_changed(self) -> None:
        """The state of the model has changed; another model file may fit a gate that was refused before."""
        digest = self.state.get("digest", "")
        if digest != self._digest:
            self._digest = digest
            self.retry("gates")
        self._changed()

    def model_event(self, level: str, text: str) -> None:
        """Something happened to the model that a person should know."""
        log.log(logging.ERROR if level == "error" else logging.INFO, "model.state", extra={"fields": {"reason": text}})
        self._deliver([Event(t_us=clock.now_us(), source=self.name, text=text[:1000], level=level)])  # type: ignore[arg-type]
