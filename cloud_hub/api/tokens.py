"""/api/v1/tokens: manages REST tokens. For administrators of the whole hub."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.access import tokens
from cloud_hub.api.dependencies import Administrator, TheHub
from cloud_hub.clock import now_us
from cloud_hub.errors import HubError
from shared.durations import DAY_US
from shared.errors import ConfigError

router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"])


class TokenBody(BaseModel):
    """A token to create; `scope` lists asset paths, None for the whole hub."""

    model_config = ConfigDict(extra="forbid")
    name: str
    roles: list[str] = Field(min_length=1, max_length=len(tokens.MAY))
    scope: list[str] | None = Field(default=None, min_length=1, max_length=100)
    life_days: float = Field(default=tokens.LIFE_DAYS, gt=0, le=366)


class TokenView(BaseModel):
    """A token without its secret, which the hub does not store."""

    id: str
    name: str
    role: str
    scope: list[str] | None
    created_us: int
    expires_us: int | None
    revoked_us: int | None


class NewToken(TokenView):
    """A token with its secret, which is shown only once."""

    token: str


@router.get("")
def newest(hub: TheHub, caller: Administrator, limit: int = 100) -> list[TokenView]:
    """List tokens, the newest first, including revoked and expired ones."""
    caller.needs_all()
    with hub.db.read() as session:
        rows = tokens.list_newest(session, min(max(limit, 1), 1000))
    return [TokenView(**row.model_dump(exclude={"digest"})) for row in rows]


@router.post("", status_code=201)
def create(body: TokenBody, hub: TheHub, caller: Administrator) -> NewToken:
    """Create a token; only this response contains its secret."""
    caller.needs_all()
    now = now_us()
    scope = None if body.scope is None else tuple(body.scope)
    try:
        with hub.db.write() as session:
            text = tokens.create(
                session, body.name, " ".join(body.roles), now, caller.actor, scope=scope,
                expires_us=now + int(body.life_days * DAY_US), trace=caller.trace,
            )  # fmt: skip
            row = tokens.find(session, text, now)
    except ConfigError as error:
        raise HubError(422, "Invalid request", str(error)) from error
    return NewToken(**row.model_dump(exclude={"digest"}), token=text)


@router.delete("/{token_id}", status_code=204)
def revoke(token_id: str, hub: TheHub, caller: Administrator) -> None:
    """Revoke a token at once."""
    caller.needs_all()
    with hub.db.write() as session:
        tokens.revoke_by_id(session, token_id, now_us(), caller.actor, caller.trace)
