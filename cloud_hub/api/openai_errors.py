"""Errors below /v1/chat and /v1/models in OpenAI's form, which its clients read."""

from __future__ import annotations

import math

from fastapi.responses import JSONResponse

from cloud_hub.errors import HubError
from cloud_hub.inference.gateway.core.refusals import Refusal

PREFIXES = ("/v1/chat/", "/v1/models")
TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
    500: "server_error", 502: "server_error", 503: "server_error", 504: "server_error",
}  # fmt: skip
CODES = {"model": "model_not_found", "context": "context_length_exceeded", "budget": "insufficient_quota"}


def openai_problem(error: HubError) -> JSONResponse:
    """The response for an error of the hub."""
    response = _response(error.status, error.detail, error.title.lower().replace(" ", "_"))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if wait := error.extensions.get("retry_after_s"):
        response.headers["Retry-After"] = wait
    return response


def refusal_response(refusal: Refusal) -> JSONResponse:
    """The response for a refusal of the gateway. A client should not repeat one that only a person can cure."""
    response = _response(refusal.status, refusal.reason, CODES.get(refusal.code, refusal.code))
    if refusal.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(refusal.retry_after_s))
    if refusal.code == "budget":
        response.headers["x-should-retry"] = "false"
    return response


def _response(status: int, message: str, code: str) -> JSONResponse:
    kind = TYPES.get(status, "invalid_request_error")
    return JSONResponse({"error": {"message": message, "type": kind, "code": code, "param": None}}, status)
