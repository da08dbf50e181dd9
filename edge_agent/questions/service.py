"""Asks the hub over MQTT, without blocking: answers come to a callback in the agent's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent import clock
from edge_agent.collectors import OnAnswer
from edge_agent.store.statestore import StateStore
from shared.protocol.codec import from_plain, plain
from shared.protocol.messages import InferenceRequest, InferenceResponse

log = logging.getLogger(__name__)

MAX_OPEN = 4
"""Open questions; the hub takes no more of one device."""
BUSY_S = 5.0


@dataclass(frozen=True, slots=True)
class _Open:
    request: InferenceRequest
    until_s: float
    on_answer: OnAnswer


class Questions:
    """`publish(rest, message, trace=...)` sends below the device's topic; False while there is no connection."""

    def __init__(self, store: StateStore, publish: Callable[..., bool]) -> None:
        self._store, self._publish = store, publish
        self._open: dict[str, _Open] = {}
        self._local: set[int] = set()
        self._unread = True

    def ask(self, request: InferenceRequest, on_answer: OnAnswer) -> None:
        """Ask; `on_answer` is called once, now or within the deadline. `request.id` must be new: `clock.new_id()`."""
        if len(self._open) >= MAX_OPEN:
            self._answer(on_answer, _refused(request, "queue_full", f"{MAX_OPEN} questions are open", BUSY_S))
        elif not self._publish("inference/request", request, trace=clock.new_trace()):
            self._answer(on_answer, _refused(request, "offline", "the device is not connected to its hub"))
        else:
            self._open[request.id] = _Open(request, clock.monotonic_s() + request.deadline_s, on_answer)

    def answered(self, response: InferenceResponse) -> None:
        """The hub's response; one that came too late, or is of nobody here, is dropped."""
        waiting = self._open.pop(response.id, None)
        if waiting is not None:
            self._answer(waiting.on_answer, response)

    def tick(self) -> None:
        """Refuse what has no answer in time, and ask what other programs want to know. Called once a second."""
        now_s = clock.monotonic_s()
        for number in [number for number, waiting in self._open.items() if waiting.until_s <= now_s]:
            waiting = self._open.pop(number)
            self._answer(waiting.on_answer, _refused(waiting.request, "deadline", "the hub did not answer in time"))
        if self._unread or self._store.changed("questions"):
            self._unread = False
            self._serve()

    def _serve(self) -> None:
        """Ask the stored questions of other programs; one whose deadline has passed is refused."""
        for number, stored in self._store.questions():
            if number in self._local:
                continue
            try:
                asked_us, request = int(stored["asked_us"]), from_plain(InferenceRequest, stored["request"])
            except (KeyError, TypeError, ValueError) as error:
                self._store.answer(number, {"id": "", "state": "refused", "code": "invalid", "reason": str(error)})
                continue
            self._local.add(number)
            on_answer = self._storing(number)
            if clock.now_us() > asked_us + request.deadline_s * 1e6:
                self._answer(on_answer, _refused(request, "deadline", "the agent did not run until the deadline"))
            else:
                self.ask(request, on_answer)

    def _storing(self, number: int) -> OnAnswer:
        def store(response: InferenceResponse) -> None:
            self._local.discard(number)
            self._store.answer(number, plain(response))

        return store

    @staticmethod
    def _answer(on_answer: OnAnswer, response: InferenceResponse) -> None:
        try:
            on_answer(response)
        except Exception:  # a callback of a plug-in must not end the agent
            log.exception("question.callback_failed", extra={"fields": {"state": response.state}})


def _refused(
    request: InferenceRequest, code: str, reason: str, retry_after_s: float | None = None
) -> InferenceResponse:  # fmt: skip
    return InferenceResponse(id=request.id, state="refused", code=code, reason=reason, retry_after_s=retry_after_s)
