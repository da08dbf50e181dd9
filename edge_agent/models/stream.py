"""One `[[models]]` table: gets frames, has them run by an engine, and says what the results mean.

The gate keeps confident results and escalates the others; the hub's expert answers within the deadline, or the
fallback holds. While no model is running, every frame is escalated.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from edge_agent import clock
from edge_agent.collectors import Frame, ModelInput
from edge_agent.commands.service import Verb, take_args
from edge_agent.config import ModelTable
from edge_agent.models.child import InFlight
from edge_agent.models.core.answers import AnswerTable, WaitingInput
from edge_agent.models.core.gating import (
    UNKNOWN,
    ResultGate,
    StreamResult,
    output_message,
    result_samples,
    sound,
    value_name,
)
from edge_agent.models.core.latency import LatencyHistogram
from edge_agent.models.core.pixels import cropped
from edge_agent.models.core.rate import RateControl
from edge_agent.models.pool import EnginePool
from edge_agent.models.serving import ServedModel
from edge_agent.models.wire import ModelSpec
from edge_agent.twin.sync import TwinSync
from shared.models.gate import Gate, Result
from shared.protocol.codec import from_plain, plain
from shared.protocol.messages import CommandRequest, Escalation, EscalationAnswer, Event, Metric, ModelOutput, Sample

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 4
"""Maximum frames of a stream that the engine has at a time."""
MAX_ESCALATED = 256
"""Maximum number of escalations whose answers are counted; older ones are dropped."""
CHAIN_ROOM = 32
"""So many boxes of another model's frames wait; of a collector only the newest frame does."""
LATENCY_S = 10.0
"""Period of the latency metrics."""

Item = Sample | Escalation | Event


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
        self._deliver, self._changed, self._output = deliver, changed, output
        self.gatekeeper = ResultGate(table.name)
        self.consumers: list[ModelStream] = []
        self._rate: RateControl[ModelInput] = RateControl(table.max_fps, CHAIN_ROOM if chained else 1)
        self._answers = AnswerTable()
        self._escalated: dict[str, None] = {}
        self._latency, self._run = LatencyHistogram(), LatencyHistogram()
        self._latency_due_s = clock.monotonic_s() + LATENCY_S
        self._label = ""
        self._twin: TwinSync | None = None
        self._digest = ""
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
        own = {"bundle": self._table.bundle, "variant": self._table.variant}
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
            self._latency.add(clock.monotonic_s() - flight.submitted_s)
            self._run.add(run_s)
        elif reason:
            log.debug("model.no_result", extra={"fields": {"model": self.name, "reason": reason}})
        self._judge(flight.input, result)
        if result is not None and self.consumers and isinstance(flight.input, Frame):
            self._pass_on(flight.input, result)
        self._pump()

    def _pass_on(self, frame: Frame, result: Result) -> None:
        """Give the boxes to the models that take them; their times differ by microseconds, to tell them apart."""
        for place, box in enumerate(result.boxes):
            part = cropped(frame, (box.x, box.y, box.w, box.h))
            if part is not None:
                part = replace(part, source=self.name, t_us=frame.t_us + place)
                for consumer in self.consumers:
                    consumer.frame(part)

    # -- results -------------------------------------------------------------------------------------

    def _judge(self, item: ModelInput, result: Result | None) -> None:
        said, escalation = self.gatekeeper.judge(item, result, random.random(), clock.new_id)  # noqa: S311 - an audit draw
        if said is not None:
            self._say(said)
        if escalation is not None:
            self._deliver([escalation])
            self._wait_for_expert(escalation, said, item, result)

    def _wait_for_expert(
        self, escalation: Escalation, said: StreamResult | None, item: ModelInput, result: Result | None
    ) -> None:
        if said is None and self._table.deadline_s:
            until_s = clock.monotonic_s() + self._table.deadline_s
            waiting = WaitingInput(id=escalation.id, number=item.number, t_us=item.t_us, result=result, until_s=until_s)
            given_up = self._answers.add(waiting)
            if given_up is not None:
                self._fall_back(given_up)
        else:
            self._escalated[escalation.id] = None
            if len(self._escalated) > MAX_ESCALATED:
                del self._escalated[next(iter(self._escalated))]

    def expert_answered(self, answer: EscalationAnswer) -> None:
        """The hub's answer to an escalation; of this model or of another one."""
        if answer.id in self._escalated:
            del self._escalated[answer.id]
            self.gatekeeper.answered += 1
        waiting = self._answers.answered(answer.id)
        if waiting is None:
            return
        self.gatekeeper.answered += 1
        if not answer.label and not answer.values:  # the expert could not take it
            self._fall_back(waiting)
            return
        self._say(
            StreamResult(
                number=waiting.number, t_us=waiting.t_us, label=answer.label or UNKNOWN, score=answer.confidence,
                by="expert", values=answer.values,
            )
        )  # fmt: skip

    def _fall_back(self, waiting: WaitingInput) -> None:
        result = waiting.result
        if self._table.fallback == "edge" and result is not None and sound(result):
            said = StreamResult(
                number=waiting.number, t_us=waiting.t_us, label=result.label, score=result.margin, by="fallback",
                values=result.values, boxes=result.boxes,
            )  # fmt: skip
        else:
            said = StreamResult(number=waiting.number, t_us=waiting.t_us, label=UNKNOWN, score=0.0, by="fallback")
        self._say(said)

    def _say(self, said: StreamResult) -> None:
        items: list[Item] = [*result_samples(self.name, said, self.model.labels)]
        if self._table.events and said.label != self._label:
            text = f"label {said.label} (was {self._label or 'none'})"
            items.append(Event(t_us=said.t_us, source=self.name, text=text[:1000], fields={"by": said.by}))
        self._label = said.label
        self._deliver(items)
        if self._table.output:
            self._output(output_message(self.name, said))

    # -- once a second -------------------------------------------------------------------------------

    def tick(self, now_us: int) -> None:
        """Deliver counters, end waits for the expert, submit what waits."""
        now = clock.monotonic_s()
        for waiting in list(self._answers.expired(now)):
            self.gatekeeper.expired += 1
            self._fall_back(waiting)
        self.model.tick()
        self._pump()
        self._deliver([*self.gatekeeper.counts(now_us, self.model.age_s(now))])
        if now >= self._latency_due_s:
            self._latency_due_s = now + LATENCY_S
            self._deliver(self._latencies(now_us))

    def _latencies(self, now_us: int) -> list[Sample]:
        values = {"memory_mb": self.model.rss_mb}
        for name, histogram in (("latency", self._latency), ("run", self._run)):
            if histogram.count:
                values |= {f"{name}_p50_s": histogram.quantile(0.5), f"{name}_p99_s": histogram.quantile(0.99)}
                histogram.reset()
        return [Sample(metric=f"{self.name}/{n}", t_us=now_us, value=round(v, 6)) for n, v in values.items()]

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
