"""/api/v1/ask: questions about the fleet in words."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from cloud_hub.api.dependencies import Caller, Hub, Reader, TheHub, authenticated
from cloud_hub.ask import service
from cloud_hub.ask.core.forms import FORMS, MAX_QUESTION
from cloud_hub.ask.model import GatewayChat
from cloud_hub.ask.service import Progress, Question
from cloud_hub.clock import now_us
from cloud_hub.playbooks.catalogue import PlaybookCatalogue
from cloud_hub.security.core.roles import MAY, Identity

router = APIRouter(prefix="/api/v1", tags=["ask"])
log = logging.getLogger(__name__)
DEADLINE_S = 60.0
"""Of one answer of the model; a question takes at most `ask.model.MAX_ROUNDS` of them."""
EVENTS = "text/event-stream"


class AskBody(BaseModel):
    """A question, and the `session` of an earlier answer to go on with.

    With `stream`, server-sent events: `tool` for each look-up, `answer` at the end. `engine` "rules" asks no language
    model. `language` is that of the question unless given.
    """

    model_config = ConfigDict(extra="forbid")
    question: str = Field(min_length=1, max_length=MAX_QUESTION)
    session: str = Field(default="", max_length=64)
    language: Literal["en", "zh"] | None = None
    engine: Literal["auto", "rules"] = "auto"
    stream: bool = False


class SentenceView(BaseModel):
    """A sentence and the ids of the facts that it rests on."""

    text: str
    cites: list[str]


class FactView(BaseModel):
    """What a tool found."""

    id: str
    tool: str
    kind: str
    text: str
    data: dict[str, Any]


class AnswerView(BaseModel):
    """An answer by `engine`; `author` is `rules` (question forms, no language model) or `glm`."""

    session: str
    sentences: list[SentenceView]
    facts: list[FactView]
    author: Literal["rules", "glm"]
    engine: str
    note: str
    plan: str


class FormView(BaseModel):
    """A question form that needs no language model, with examples."""

    name: str
    examples: list[str]


@router.get("/ask/forms")
def question_forms(_: Reader) -> list[FormView]:
    """The questions that are answered without a language model."""
    return [FormView(name=form.name, examples=list(form.examples)) for form in FORMS]


@router.post("/ask", response_model=AnswerView,
             responses={200: {"content": {"application/json": {}, EVENTS: {}}}})  # fmt: skip
def ask(body: AskBody, hub: TheHub, caller: Reader, identity: Annotated[Identity, Depends(authenticated)]) -> Any:
    """Answer a question about what the caller may see; tools only read. 429 while too many are under way."""
    powers = frozenset(power for role in identity.roles.split() for power in MAY.get(role, ()))
    question = Question(
        text=body.question, actor=caller.actor, scope=caller.scope, powers=powers, session=body.session,
        language=body.language, engine=body.engine, now_us=now_us(),
        playbooks=PlaybookCatalogue(hub.settings.playbooks.folder),
    )  # fmt: skip
    if body.stream:
        return _streamed(hub, caller, question)
    with hub.questions.hold(caller.actor):
        *_, last = service.ask(hub.db, question, _model(hub, caller, question))
    return _view(last)


def _model(hub: Hub, caller: Caller, question: Question) -> GatewayChat | None:
    """The language model for callers who may use one; None without pools."""
    if hub.gateway is None or "infer" not in question.powers or not hub.gateway.models(caller.scope):
        return None
    return GatewayChat(hub.gateway, tenant=caller.actor, sites=caller.scope, deadline_s=DEADLINE_S, trace=caller.trace)


def _view(last: Progress) -> AnswerView:
    assert last.answer is not None
    return AnswerView(session=last.session, **asdict(last.answer))


class _AnswerStream(StreamingResponse):
    """Events of one question, which has its place from before the head until the caller has all of it, or has left.

    The response holds the place: an iterator that nobody begins, or reads to its end, would keep it.
    """

    def __init__(self, events: Generator[bytes, None, None], place: AbstractContextManager[None]) -> None:
        super().__init__(events, media_type=EVENTS)
        self._events, self._place = events, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; HubError 429 if there is no place."""
        with self._place:
            try:
                await super().__call__(scope, receive, send)
            finally:
                self._events.close()


def _streamed(hub: Hub, caller: Caller, question: Question) -> Response:
    return _AnswerStream(_events(hub, caller, question), hub.questions.hold(caller.actor))


def _events(hub: Hub, caller: Caller, question: Question) -> Generator[bytes, None, None]:
    try:
        for progress in service.ask(hub.db, question, _model(hub, caller, question)):
            if progress.call is not None:
                yield _event("tool", asdict(progress.call))
            else:
                yield _event("answer", _view(progress).model_dump())
    except Exception as error:  # the head is sent: the stream must say that it failed
        log.exception("ask.failed", extra={"trace": caller.trace})
        yield _event("error", {"title": "The question was not answered", "detail": type(error).__name__})


def _event(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
