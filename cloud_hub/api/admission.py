"""Configures the request guard: authentication and body limit of each family of routes."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, Request
from starlette.types import Scope

from cloud_hub.api import aws, est, inference, openai_errors, problems
from cloud_hub.api.dependencies import authenticated
from cloud_hub.api.request_guard import Family, Limit, RequestGuard
from shared.protocol.codec import MAX_PAYLOAD


async def _bearer(scope: Scope) -> None:
    await authenticated(Request(scope))


_SIGNED = Limit(size=MAX_PAYLOAD)
FAMILIES = (
    Family(prefix="/things/", authenticate=aws.authenticate, refusal=aws.refusal, limit=_SIGNED),
    Family(prefix="/api/things/", authenticate=aws.authenticate, refusal=aws.refusal, limit=_SIGNED),
    Family(
        prefix="/.well-known/", authenticate=est.authenticate, refusal=problems.enrolment_problem,
        limit=Limit(size=est.MAX_REQUEST, values=None),
    ),
    Family(
        prefix="/v1/chat/", authenticate=_bearer, refusal=openai_errors.openai_problem, limit=inference.LIMIT
    ),
    Family(prefix="", authenticate=_bearer, refusal=problems.problem_response),
)  # fmt: skip


def install(app: FastAPI, families: Sequence[Family] = ()) -> None:
    """Add the guard to the application; `families` come before those of REST."""
    app.add_middleware(RequestGuard, families=(*families, *FAMILIES))
