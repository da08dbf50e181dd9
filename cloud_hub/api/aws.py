"""AWS's data plane for device shadows: `boto3.client("iot-data", endpoint_url=...)` works as it is.

Every request is signed (SigV4) with a token's AWS key pair. Answers have AWS's shapes, errors too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, params
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from sqlmodel import Session
from starlette.types import Scope

from cloud_hub.access import tokens
from cloud_hub.api.dependencies import Caller, Hub, TheHub, authorize, record_wrong_token, require_unlocked
from cloud_hub.clock import now_us
from cloud_hub.database.tables import Token
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.security import aws_key
from cloud_hub.security.core import sigv4
from cloud_hub.twins import service as twins
from shared.codec import encode
from shared.ids import SHADOW_NAME, device_of_thing

router = APIRouter(tags=["aws"])

MODELLED = {
    400: "InvalidRequestException", 403: "ForbiddenException", 404: "ResourceNotFoundException",
    409: "ConflictException", 413: "RequestEntityTooLargeException", 415: "UnsupportedDocumentEncodingException",
    429: "ThrottlingException",
}  # fmt: skip
"""The AWS exception names for the error codes of twins."""

TOO_LARGE = "The payload exceeds the maximum size allowed"
MAX_PAGE = 100


class AwsError(HubError):
    """An error that AWS clients raise as the exception `kind`."""

    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(status, kind or MODELLED[status], message)


def refusal(error: HubError) -> JSONResponse:
    """Render an error as AWS does."""
    kind = error.title if isinstance(error, AwsError) else MODELLED.get(error.status, "ServiceUnavailableException")
    message = TOO_LARGE if error.status == 413 else error.detail
    return JSONResponse({"message": message}, error.status, {"x-amzn-errortype": kind})


async def _answer_error(_request: Request, error: Any) -> JSONResponse:
    return refusal(error)


def install(app: FastAPI, dependencies: Sequence[params.Depends] = ()) -> None:
    """Add the routes, with errors rendered as AWS does."""
    app.add_exception_handler(AwsError, _answer_error)
    app.include_router(router, dependencies=dependencies)


# -- authentication --------------------------------------------------------------------------------


async def _body(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(_body)]


def _signed_request(request: Request, body: bytes) -> sigv4.Request:
    return sigv4.Request(
        method=request.method, path=request.scope["raw_path"].decode("latin-1"),
        query=request.scope["query_string"].decode("latin-1"), headers=request.headers.items(), body=body,
    )  # fmt: skip


async def authenticate(scope: Scope) -> None:
    """Check the signature of a request, except over its body; raises AwsError."""
    request = Request(scope)
    hub: Hub = request.app.state.hub
    try:
        require_unlocked(hub, request)
        key = sigv4.key_id(_signed_request(request, b""), now_us() / 1e6)
        if not (_living(hub, key) if hub.db.is_file else await run_in_threadpool(_living, hub, key)):
            raise sigv4.UnknownKey
    except sigv4.Refused as no:
        raise AwsError(403, str(no), no.code) from None
    except HubError as no:
        raise AwsError(no.status, no.detail) from None


def _living(hub: Hub, key: str) -> bool:
    with hub.db.read() as session:
        return tokens.is_active(session, key, now_us())


def _signer(request: Request, body: bytes, hub: Hub) -> Token:
    key = aws_key.read(hub.settings.aws_key_path)
    signed = _signed_request(request, body)
    with hub.db.read() as session:

        def secret_of(key_id: str) -> str | None:
            return aws_key.secret(key, key_id) if key and tokens.is_active(session, key_id, now_us()) else None

        return session.get_one(Token, sigv4.verify(signed, now_us() / 1e6, secret_of))


def _signed(power: str) -> Callable[[Request, Body], Caller]:
    def check(request: Request, body: Body) -> Caller:
        hub: Hub = request.app.state.hub
        try:
            require_unlocked(hub, request)
            identity = tokens.identity(_signer(request, body, hub))
            return authorize(hub, request, identity, power)
        except sigv4.Refused as no:
            if isinstance(no, sigv4.WrongSignature):
                record_wrong_token(hub, request)
            raise AwsError(403, str(no), no.code) from None
        except HubError as no:
            raise AwsError(no.status, no.detail) from None

    return check


Reader = Annotated[Caller, Depends(_signed("read"))]
Operator = Annotated[Caller, Depends(_signed("operate"))]


# -- documents -------------------------------------------------------------------------------------


def _device(session: Session, thing: str) -> str:
    device = device_of_thing(thing)
    if device is None or not device_registry.exists(session, device):
        raise AwsError(404, "Thing not found")
    return device


def _ask(session: Session, hub: Hub, thing: str, name: str | None, verb: str, body: bytes, caller: Caller) -> Any:
    """(accepted body, messages to publish) of one request; raises AwsError if it is rejected."""
    device = _device(session, thing)
    if name == "":
        raise AwsError(400, "Invalid shadow name: ''")
    replies = twins.handle_request(
        session,
        device,
        name or "",
        verb,
        body,
        now_us(),
        actor=caller.actor,
        max_bytes=hub.settings.twins.aws_max_bytes,
        trace=caller.trace,
    )
    first = replies[0].body
    if replies[0].verb.endswith("rejected"):
        raise AwsError(first["code"], first["message"])
    return first, twins.reply_messages(device, name or "", replies, caller.trace)


def _change(hub: Hub, thing: str, name: str | None, verb: str, body: bytes, caller: Caller) -> Response:
    with hub.db.write(scope=caller.scope) as session:
        accepted, messages = _ask(session, hub, thing, name, verb, body, caller)
    hub.publish(messages)
    hub.notify("actions")
    hub.changed([device_of_thing(thing) or thing])
    return _json(accepted)


def _json(content: Any) -> Response:
    return Response(encode(content), media_type="application/json")


@router.get("/things/{thing}/shadow")
def get_thing_shadow(thing: str, hub: TheHub, caller: Reader, name: str | None = None) -> Response:
    """GetThingShadow."""
    with hub.db.read(scope=caller.scope) as session:
        return _json(_ask(session, hub, thing, name, "get", b"", caller)[0])


_DOCUMENT = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}


@router.post("/things/{thing}/shadow", openapi_extra=_DOCUMENT)
def update_thing_shadow(thing: str, hub: TheHub, caller: Operator, body: Body, name: str | None = None) -> Response:
    """UpdateThingShadow."""
    return _change(hub, thing, name, "update", body, caller)


@router.delete("/things/{thing}/shadow")
def delete_thing_shadow(thing: str, hub: TheHub, caller: Operator, name: str | None = None) -> Response:
    """DeleteThingShadow."""
    return _change(hub, thing, name, "delete", b"", caller)


@router.get("/api/things/shadow/ListNamedShadowsForThing/{thing}")
def list_named_shadows_for_thing(
    thing: str, hub: TheHub, caller: Reader, page_size: Annotated[str, Query(alias="pageSize")] = str(MAX_PAGE),
    after: Annotated[str, Query(alias="nextToken")] = "",
) -> Response:  # fmt: skip
    """ListNamedShadowsForThing. The token of the next page is the last name of this one."""
    size = int(page_size) if re.fullmatch("[0-9]{1,3}", page_size) else 0
    if not 1 <= size <= MAX_PAGE:
        raise AwsError(400, f"pageSize must be 1 to {MAX_PAGE}")
    if after and not SHADOW_NAME.match(after):
        raise AwsError(400, "Invalid nextToken")
    with hub.db.read(scope=caller.scope) as session:
        device = _device(session, thing)
        found = twins.names(session, device, after, size + 1)
    page = {"results": found[:size], "timestamp": now_us() // 1_000_000}
    return _json(page | ({"nextToken": found[size - 1]} if len(found) > size else {}))
