"""What a stream says of inputs that went to the hub's expert: its answer within the deadline, or the fallback."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent import clock
from edge_agent.collectors import ModelInput
from edge_agent.config import ModelTable
from edge_agent.models.core.answers import AnswerTable, WaitingInput
from edge_agent.models.core.gating import UNKNOWN, ResultGate, StreamResult, sound
from shared.models.gate import Result
from shared.protocol.messages import Escalation, EscalationAnswer

MAX_ESCALATED = 256
"""Maximum number of escalations whose answers are counted; older ones are dropped."""


class ExpertWait:
    """`say` gets what the stream says; `gatekeeper` counts answers."""

    def __init__(self, table: ModelTable, gatekeeper: ResultGate, say: Callable[[StreamResult], None]) -> None:
        self._table, self._gatekeeper, self._say = table, gatekeeper, say
        self._answers = AnswerTable()
        self._escalated: dict[str, None] = {}

    def expire(self, now: float) -> None:
        """Fall back where the deadline has passed."""
        for waiting in list(self._answers.expired(now)):
            self._gatekeeper.expired += 1
            self._fall_back(waiting)

    def wait(self, escalation: Escalation, said: StreamResult | None, item: ModelInput, result: Result | None) -> None:
        """An input was escalated; `said` is what the stream has said of it already."""
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

    def answered(self, answer: EscalationAnswer) -> None:
        """The hub's answer to an escalation; of this model or of another one."""
        if answer.id in self._escalated:
            del self._escalated[answer.id]
            self._gatekeeper.answered += 1
        waiting = self._answers.answered(answer.id)
        if waiting is None:
            return
        self._gatekeeper.answered += 1
        if not answer.label and not answer.values:  # the expert could not take it
            self._fall_back(waiting)
            return
        self._say(
            StreamResult(
                number=waiting.number, t_us=waiting.t_us, label=answer.label or UNKNOWN, score=answer.confidence,
                by="expert", values=answer.values, boxes=answer.boxes,
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
