"""openapi.json: extends the schema of FastAPI with security schemes and error responses.

It also refuses query parameters that are not in openapi.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from cloud_hub.api import openai_errors
from cloud_hub.api.aws import AwsError
from cloud_hub.api.dependencies import authenticated
from cloud_hub.errors import HubError

PROBLEM = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457): `detail` names the place and the cure.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
    "additionalProperties": {"type": "string"},
}  # fmt: skip
AWS_PROBLEM = {
    "title": "AwsProblem",
    "description": "An error in AWS's form; the header x-amzn-errortype names it.",
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string"}},
}
OPENAI_PROBLEM = {
    "title": "OpenAiProblem",
    "description": "An error in OpenAI's form.",
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message", "type", "code"], "properties": {
        "message": {"type": "string"}, "type": {"type": "string"}, "code": {"type": "string"},
        "param": {"type": ["string", "null"]},
    }}},
}  # fmt: skip
SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "a token of the hub, or of the OIDC provider"},
    "claim": {"type": "http", "scheme": "basic", "description": "device id and one-time claim"},
    "proof": {"type": "apiKey", "in": "header", "name": "Tidegate-Proof", "description": "signed by the device's key"},
    "sigv4": {"type": "apiKey", "in": "header", "name": "Authorization",
              "description": "AWS Signature Version 4 of the service iotdata"},
}  # fmt: skip
TEXTS = {
    400: "The request cannot be carried out as it is", 401: "Not signed in", 403: "Not allowed", 404: "Not there",
    408: "The body came too slowly", 409: "It is in another state, or at another version",
    412: "If-Match names another version",
    413: "Too large", 415: "Not understood", 422: "Invalid request", 429: "Locked out after wrong tokens",
    503: "The hub is busy, or its database does not answer", 504: "Not answered before the deadline",
}  # fmt: skip
EVERYWHERE, WITH_BODY = (401, 403, 429, 503), (400, 408, 413)
SIGNED = (400, 403, 404, 409, 413, 415, 429, 503)


def operation_id(route: APIRoute) -> str:
    """The operation id: tag and function name, which are unique together."""
    return "_".join([*(str(tag) for tag in route.tags[:1]), route.name])


def install(app: FastAPI) -> None:
    """Extend `app.openapi()`."""

    @cache
    def described() -> dict[str, Any]:
        made = get_openapi(title=app.title, version=app.version, routes=app.routes, separate_input_output_schemas=False)
        schemas = made["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas |= {"Problem": PROBLEM, "AwsProblem": AWS_PROBLEM, "OpenAiProblem": OPENAI_PROBLEM}
        made["components"]["securitySchemes"] = SCHEMES
        for path, operations in made["paths"].items():
            for operation in operations.values():
                _complete(path, operation)
        return made

    app.openapi = described  # type: ignore[method-assign]


def _complete(path: str, operation: dict[str, Any]) -> None:
    operation["security"] = _security(path)
    operation["responses"].pop("422", None)
    signed = path.startswith(("/things/", "/api/things/"))
    media, schema = ("application/json", "AwsProblem") if signed else ("application/problem+json", "Problem")
    if path.startswith(openai_errors.PREFIXES):
        media, schema = "application/json", "OpenAiProblem"
    for status in _refusals(path, operation) if not signed else SIGNED:
        content = {media: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        operation["responses"][str(status)] = {"description": TEXTS[status], "content": content}


def _security(path: str) -> list[dict[str, list[str]]]:
    if path.startswith(("/api/v1/", "/v1/")):
        return [{"token": []}]
    if path.startswith(("/things/", "/api/things/")):
        return [{"sigv4": []}]
    return {"simpleenroll": [{"claim": []}], "simplereenroll": [{"proof": []}]}.get(path.rpartition("/")[2], [])  # type: ignore[return-value]


def _refusals(path: str, operation: dict[str, Any]) -> Iterator[int]:
    if path.startswith("/.well-known/"):
        yield from (400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
        return
    if not operation["security"]:
        return
    yield from (*EVERYWHERE, 404, 422)
    if path.startswith("/v1/chat/"):
        yield 504
    if path.startswith("/v1/"):
        yield from (400, 408, 413, 415)
    names = {parameter["name"] for parameter in operation.get("parameters", [])}
    if "requestBody" in operation:
        yield from (*WITH_BODY, 409)
    if "if-match" in names:
        yield 412
    if "name" in names or operation["operationId"].startswith("twins_"):
        yield 400
    if operation["operationId"].endswith(
        ("cancel", "remove", "decide", "refit", "release", "shelve", "unshelve", "acknowledge")
    ):
        yield 409


async def reject_unknown_query(request: Request) -> None:
    """Refuse query parameters that the route does not have; who asks is judged first."""
    if not request.scope["query_string"]:
        return
    path: str = request.scope["route"].path_format
    signed = path.startswith(("/things/", "/api/things/"))
    if path.startswith(("/api/v1/", "/v1/")):
        await authenticated(request)
    known = _names(request.app, request.method, path)
    unknown = [
        name for name in request.query_params if name not in known and not (signed and name.startswith("X-Amz-"))
    ]
    if unknown:
        have = f"this route has {', '.join(known)}" if known else "this route has none"
        detail = f"query.{unknown[0][:80]}: is no parameter here; {have}"
        raise AwsError(400, detail) if signed else HubError(422, "Invalid request", detail)


@cache
def _names(app: FastAPI, method: str, path: str) -> list[str]:
    operation = app.openapi()["paths"].get(path, {}).get(method.lower(), {})
    return [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
