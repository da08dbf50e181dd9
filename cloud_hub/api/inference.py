"""/v1/chat/completions and /v1/models: OpenAI's API before the inference gateway."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any, Literal, get_args

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from cloud_hub.api import openai_errors
from cloud_hub.api.dependencies import Asker, Caller, Hub, Reader, TheHub
from cloud_hub.api.request_guard import Limit
from cloud_hub.database.scopes import covers, validate_path
from cloud_hub.errors import HubError
from cloud_hub.inference.gateway.calls import Call, GatewayRefused
from cloud_hub.inference.gateway.core.breaker import State
from cloud_hub.inference.gateway.core.classes import CLASSES, MAX_DEADLINE_S, RequestClass, may_ask
from cloud_hub.inference.gateway.core.routing import AUTO, Sites
from cloud_hub.inference.gateway.service import Gateway

router = APIRouter(prefix="/v1", tags=["inference"])
overview_router = APIRouter(prefix="/api/v1", tags=["inference"])
LIMIT = Limit(size=4 << 20, values=200_000)
"""Of a prompt. What is larger fits no model's context."""
NO_POOLS = "this hub has no pool of language models: configure [[inference.pools]]"
HEADERS = [
    {"name": "Tidegate-Class", "in": "header", "schema": {"type": "string", "enum": list(get_args(RequestClass))}},
    {"name": "Tidegate-Deadline-S", "in": "header", "schema": {"type": "number", "maximum": MAX_DEADLINE_S}},
    {"name": "Tidegate-Site", "in": "header", "schema": {"type": "string"}},
]
BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object", "required": ["messages"], "properties": {
        "model": {"type": "string"}, "messages": {"type": "array", "items": {"type": "object"}},
        "stream": {"type": "boolean"},
    }, "additionalProperties": True}}},
}  # fmt: skip


class Model(BaseModel):
    """A pool, by its name or its model's, or `auto`."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "tidegate"


class ModelList(BaseModel):
    """What a caller may name as `model`."""

    object: str = "list"
    data: list[Model]


@router.get("/models")
def models(hub: TheHub, caller: Asker) -> ModelList:
    """The models that the caller may name; `auto` leaves the choice to the class of the request."""
    known = hub.gateway.models(caller.scope) if hub.gateway is not None else []
    auto = [AUTO] if known else []
    names = dict.fromkeys([*auto, *(name for name, _ in known), *(model for _, model in known if model)])
    return ModelList(data=[Model(id=name) for name in names])


@router.post(
    "/chat/completions", openapi_extra={"requestBody": BODY, "parameters": HEADERS}, response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}},
)  # fmt: skip
async def chat(request: Request, hub: TheHub, caller: Asker) -> Response:
    """A chat completion, as OpenAI defines it; with `stream` as server-sent events.

    The headers give what that API lacks: the class, the deadline in seconds and the site that the prompt is about.
    """
    gateway = require_gateway(hub.gateway)
    try:
        body = msgspec.json.decode(await request.body(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HubError(400, "Invalid request", f"the body is no JSON object: {error}") from None
    request_class = _class(request)
    require_class(hub, caller, request_class)
    call = Call(
        body=body, tenant=caller.actor, sites=_sites(request, caller), request_class=request_class,
        deadline_s=_deadline_s(request, request_class), trace=caller.trace,
    )  # fmt: skip
    return GatewayResponse(gateway, call)


class AddressState(BaseModel):
    """How an address does."""

    address: str
    breaker: State
    outstanding_tokens: int
    error: str = ""


class PoolOverview(BaseModel):
    """A pool now."""

    name: str
    model: str
    waiting: dict[RequestClass, int]
    running: int
    addresses: list[AddressState]


class UsageToday(BaseModel):
    """What a subject has used since midnight (UTC)."""

    kind: Literal["hub", "tenant", "device"]
    name: str
    requests: int
    tokens_in: int
    tokens_out: int
    seconds: float
    money: float


class InferenceOverview(BaseModel):
    """The gateway now: its pools, and today's use."""

    pools: list[PoolOverview]
    usage: list[UsageToday]


@overview_router.get("/inference")
def overview(hub: TheHub, caller: Reader) -> InferenceOverview:
    """The pools with queue and breakers, and today's use by tenant and device; whole hub."""
    caller.needs_all()
    gateway = hub.gateway
    if gateway is None:
        return InferenceOverview(pools=[], usage=[])
    pools = [
        PoolOverview(
            name=name, model=pool.config.model, waiting=pool.waiting, running=pool.running,
            addresses=[AddressState(address=address, breaker=state, outstanding_tokens=tokens,
                                    error=pool.errors.get(address, ""))
                       for address, (state, tokens) in pool.addresses.items()],
        )
        for name, pool in gateway.pools.items()
    ]  # fmt: skip
    usage = [
        UsageToday(kind=kind, name=name, **asdict(used)) for (kind, name), used in list(gateway.ledger.used.items())
    ]
    return InferenceOverview(pools=pools, usage=usage)


def require_gateway(gateway: Gateway | None) -> Gateway:
    """The gateway; HubError 404 without pools."""
    if gateway is None:
        raise HubError(404, "No language model", NO_POOLS)
    return gateway


def require_class(hub: Hub, caller: Caller, request_class: RequestClass) -> None:
    """Raise HubError 403 unless the caller may ask for the class."""
    allowed = hub.settings.inference.emergency_roles
    if not may_ask(request_class, caller.roles, allowed):
        who = f"for callers with role {' or '.join(allowed)}" if allowed else "for nobody"
        cure = "ask with class normal, or have the role added to inference.emergency_roles"
        raise HubError(403, "Not allowed", f"class '{request_class}' is {who} on this hub: {cure}")


def _class(request: Request) -> RequestClass:
    name = request.headers.get("tidegate-class", "normal")
    if name not in CLASSES:
        raise HubError(422, "Invalid request", f"header Tidegate-Class: '{name[:40]}' is none of {', '.join(CLASSES)}")
    return name


def _deadline_s(request: Request, request_class: RequestClass) -> float:
    text = request.headers.get("tidegate-deadline-s", "")
    try:
        seconds = float(text) if text else CLASSES[request_class].deadline_s
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_DEADLINE_S:
        reason = f"header Tidegate-Deadline-S: give seconds of more than 0 and at most {MAX_DEADLINE_S:g}"
        raise HubError(422, "Invalid request", reason)
    return seconds


def _sites(request: Request, caller: Caller) -> Sites:
    text = request.headers.get("tidegate-site", "")
    if not text:
        return caller.scope
    try:
        site = validate_path(text)
    except ValueError as error:
        raise HubError(422, "Invalid request", f"header Tidegate-Site: {error}") from None
    if not covers(caller.scope, [site]):
        raise HubError(403, "Not allowed", f"header Tidegate-Site: '{site}' is outside of your scope")
    return (site,)


class GatewayResponse(Response):
    """Asks the gateway while it watches the connection: a client that leaves frees its place and the engine's slot."""

    def __init__(self, gateway: Gateway, call: Call) -> None:
        super().__init__()
        self._gateway, self._call = gateway, call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves before."""
        work = asyncio.ensure_future(self._answer(scope, receive, send))
        left = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, left):
                task.cancel()
            results = await asyncio.gather(work, left, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._gateway.open(self._call)
        except GatewayRefused as error:
            await openai_errors.refusal_response(error.refusal)(scope, receive, send)
            return
        items = reply.items
        try:
            first = await anext(items)
            if not self._call.stream:  # settle the accounts first: a complete response looks like a client that left
                async for _ in items:
                    pass
            await send({"type": "http.response.start", "status": 200, "headers": self._head(first, reply.outcome)})
            await send({"type": "http.response.body", "body": first, "more_body": self._call.stream})
            if self._call.stream:
                async for part in items:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await items.aclose()

    def _head(self, first: bytes, outcome: Any) -> list[tuple[bytes, bytes]]:
        headers = {"tidegate-pool": outcome.pool, "traceparent": self._call.trace}
        if outcome.cached:
            headers["tidegate-cache"] = outcome.cached
        if self._call.stream:
            headers |= {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        else:
            headers |= {"content-type": "application/json", "content-length": str(len(first))}
        return [(name.encode(), value.encode("latin1")) for name, value in headers.items()]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
