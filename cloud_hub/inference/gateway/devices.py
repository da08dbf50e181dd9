"""Devices' questions over MQTT: each is answered before its deadline or refused with a reason."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from cloud_hub.database.scopes import covers
from cloud_hub.inference.engines import EngineBroken
from cloud_hub.inference.engines.core.completion import decode_completion
from cloud_hub.inference.gateway.calls import Call, GatewayRefused, Outcome
from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.runtime import tracing
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.settings.inference import Inference
from shared.errors import NotReady
from shared.protocol import topics
from shared.protocol.codec import encode
from shared.protocol.messages import InferenceRequest, InferenceResponse

log = logging.getLogger(__name__)

PER_DEVICE = 4
"""Open questions of one device."""
REMEMBERED = 2000
"""Answered questions that are remembered, so that a repeated message is answered and not asked again."""
MAX_TEXT = 256 << 10


@dataclass(frozen=True, slots=True)
class DeviceQuestion:
    """A question as it was received. `sites` is the assigned path of the device; `known`: it has had a birth."""

    device: str
    sites: tuple[str, ...]
    known: bool
    request: InferenceRequest
    trace: str
    span: tracing.Span = field(default_factory=tracing.Unrecorded)


class DeviceDesk:
    """Takes questions from any thread and publishes the responses."""

    def __init__(
        self, gateway: Gateway | None, publish: Callable[[Iterable[OutgoingMessage]], None], settings: Inference
    ) -> None:  # fmt: skip
        self._gateway, self._publish, self._settings = gateway, publish, settings
        self._lock = threading.Lock()
        self._open: dict[str, set[str]] = {}
        self._answered: OrderedDict[tuple[str, str], InferenceResponse] = OrderedDict()

    def ask(self, question: DeviceQuestion) -> None:
        """Begin to answer a question; a repeated one is ignored, or gets the same response again."""
        span = tracing.start("device.question", question.trace, {"tidegate.device": question.device}, kind="consumer")
        question = replace(question, trace=span.traceparent, span=span)
        with self._lock:
            known = self._answered.get((question.device, question.request.id))
            opened = self._open.setdefault(question.device, set())
            if known is None and question.request.id in opened:
                span.end({"tidegate.repeated": True})
                return
            refusal = known or self._refusal(question, len(opened))
            if refusal is None:
                opened.add(question.request.id)
            elif not opened:
                del self._open[question.device]
        if refusal is not None:
            self._send(question, refusal)
            return
        self._submit(question)

    def _submit(self, question: DeviceQuestion) -> None:
        assert self._gateway is not None
        try:
            self._gateway.submit(lambda: self._answer(question))
        except NotReady as error:
            self._finish(question, _refused(question, "unavailable", error.reason, error.wait_s))

    def _refusal(self, question: DeviceQuestion, count: int) -> InferenceResponse | None:
        request = question.request
        if self._gateway is None:
            return _refused(question, "unavailable", "this hub has no pool of language models")
        if not question.known:
            return _refused(question, "invalid", "the device is not known here: send a birth first")
        size = len(request.prompt.encode()) + len(request.system.encode())
        most = self._settings.device_prompt_bytes
        if size > most:
            return _refused(question, "invalid", f"{size} bytes of prompt are more than the {most} allowed")
        if request.request_class == "emergency" and not self._may_claim_emergency(question):
            reason = (
                "class 'emergency' is not for this device: ask with class normal, or see inference.emergency_devices"
            )
            return _refused(question, "class", reason)
        if count >= PER_DEVICE:
            return _refused(question, "queue_full", f"{count} questions of this device are open", 5.0)
        return None

    def _may_claim_emergency(self, question: DeviceQuestion) -> bool:
        return bool(question.sites) and covers(tuple(self._settings.emergency_devices), question.sites)

    async def _answer(self, question: DeviceQuestion) -> None:
        """In the gateway's loop."""
        assert self._gateway is not None
        try:
            body, outcome = await self._gateway.complete(_call(question))
            response = _answered(question, body, outcome)
        except GatewayRefused as error:
            response = _refused(question, error.refusal.code, error.refusal.reason, error.refusal.retry_after_s)
        except EngineBroken as error:
            response = _refused(question, "unavailable", error.reason)
        except Exception:
            log.exception("inference.device_failed", extra={"fields": {"device": question.device}})
            response = _refused(question, "unavailable", "the hub failed; its log has the trace")
        await asyncio.to_thread(self._finish, question, response)

    def _finish(self, question: DeviceQuestion, response: InferenceResponse) -> None:
        with self._lock:
            opened = self._open.get(question.device, set())
            opened.discard(question.request.id)
            if not opened:
                self._open.pop(question.device, None)
            if response.state == "answered":
                self._answered[question.device, question.request.id] = response
                while len(self._answered) > REMEMBERED:
                    self._answered.popitem(last=False)
        self._send(question, response)

    def _send(self, question: DeviceQuestion, response: InferenceResponse) -> None:
        topic = topics.thing(question.device, "inference/response")
        with tracing.span("device.answer", question.trace, {"tidegate.state": response.state}, kind="producer") as span:
            self._publish([OutgoingMessage(topic=topic, payload=encode(response), trace=span.traceparent)])
        question.span.end(failure=response.code)


def _call(question: DeviceQuestion) -> Call:
    request = question.request
    messages = [{"role": "system", "content": request.system}] if request.system else []
    body: dict[str, Any] = {
        "model": request.model, "messages": [*messages, {"role": "user", "content": request.prompt}],
        "max_tokens": request.max_tokens, "temperature": 0,
    }  # fmt: skip
    if request.schema is not None:
        form = {"name": "answer", "schema": request.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return Call(
        body=body, tenant=f"device:{question.device}", device=question.device, sites=question.sites,
        request_class=request.request_class, deadline_s=request.deadline_s, trace=question.trace,
    )  # fmt: skip


def _answered(question: DeviceQuestion, body: bytes, outcome: Outcome) -> InferenceResponse:
    text = decode_completion(body).choices[0].message.content or ""
    return InferenceResponse(
        id=question.request.id, state="answered", text=text[:MAX_TEXT], model=outcome.model, cached=bool(outcome.cached)
    )


def _refused(question: DeviceQuestion, code: str, reason: str, retry_after_s: float | None = None) -> InferenceResponse:
    return InferenceResponse(
        id=question.request.id, state="refused", code=code, reason=reason[:500], retry_after_s=retry_after_s
    )
