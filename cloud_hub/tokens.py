"""REST tokens: made once, shown once, stored as SHA-256; each has roles, a scope and an end. No passwords anywhere."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from sqlalchemy import bindparam
from sqlalchemy import select as columns_of
from sqlmodel import Session, col, select

from cloud_hub import audit
from cloud_hub.clock import new_id
from cloud_hub.db import Database
from cloud_hub.errors import HubError, WrongToken
from cloud_hub.owners import RESERVED
from cloud_hub.quick_query import QuickQuery
from cloud_hub.roles import MAY, Identity, Scope, joined
from cloud_hub.scopes import path
from cloud_hub.tables import Token
from shared.errors import ConfigError

__all__ = [
    "DAY_US",
    "LIFE_DAYS",
    "MAY",
    "create",
    "find",
    "identity",
    "living",
    "newest",
    "revoke",
    "revoke_one",
    "whose",
]

DAY_US = 86_400_000_000
LIFE_DAYS = 90
"""How long a token lives unless somebody said otherwise."""
MAX_NAME = 200
_OWN = ("hub", "command line")
_TOKENS: Any = Token.__table__  # type: ignore[attr-defined]
_READ = ("name", "role", "scope", "expires_us", "revoked_us")
_BY_DIGEST = QuickQuery(columns_of(*(_TOKENS.c[name] for name in _READ)).where(_TOKENS.c.digest == bindparam("digest")))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def create(
    session: Session, name: str, role: str, now_us: int, who: str, *, scope: Scope = None,
    expires_us: int | None = None, trace: str = "",
) -> str:  # fmt: skip
    """Make a token and return its text, which nobody can read again. Its name owns what is changed with it.

    `role` is one or more, with spaces between. Raises ConfigError for what cannot be.
    """
    if name.startswith(RESERVED) or name in _OWN:
        cure = f"begin with anything but {', '.join(RESERVED)}, and take neither of {', '.join(_OWN)}"
        raise ConfigError("token name", f"'{name[:80]}' would pass for the hub's own", cure)
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ConfigError("token name", "is empty, too long or not printable", f"give 1 to {MAX_NAME} characters")
    try:
        roles, paths = joined(role.split()), None if scope is None else [path(one) for one in scope]
    except ValueError as error:
        raise ConfigError("token", str(error), "see docs/rest.md") from error
    if not roles or paths == []:
        raise ConfigError("token", "has no role, or a scope without a path", f"give one of {', '.join(MAY)}")
    text = f"tg_{secrets.token_urlsafe(32)}"
    session.add(Token(id=new_id(), name=name, role=roles, digest=_digest(text), created_us=now_us, scope=paths,
                      expires_us=expires_us))  # fmt: skip
    audit.add(session, now_us, who, "token.created", name, trace=trace, role=roles, scope=paths, expires_us=expires_us)
    return text


def find(session: Session, text: str, now_us: int) -> Token:
    """The living token behind `text`, or HubError 401; WrongToken when there never was one."""
    return _living(session.exec(select(Token).where(Token.digest == _digest(text))).first(), now_us)


def _living(row: Token | None, now_us: int) -> Token:
    if row is None:
        raise WrongToken("send a living token as 'Authorization: Bearer tg_...'")
    if not _lives(row, now_us):
        state = "was revoked" if row.revoked_us is not None else "has expired"
        raise HubError(401, "Not signed in", f"this token {state}: send a living one as 'Authorization: Bearer tg_...'")
    return row


def _lives(row: Token, now_us: int) -> bool:
    return row.revoked_us is None and (row.expires_us is None or now_us < row.expires_us)


def whose(db: Database, text: str, now_us: int) -> Identity:
    """As `find`, for every request: who holds the token."""
    found = db.first(_BY_DIGEST, digest=_digest(text))
    return identity(_living(None if found is None else Token(**dict(zip(_READ, found, strict=True))), now_us))


def identity(row: Token) -> Identity:
    """What a token says of who holds it."""
    return Identity(who=row.name, roles=row.role, scope=None if row.scope is None else tuple(row.scope))


def living(session: Session, token_id: str, now_us: int) -> bool:
    """Whether this token is there, not revoked and not expired."""
    row = session.get(Token, token_id)
    return row is not None and _lives(row, now_us)


def newest(session: Session, limit: int) -> list[Token]:
    """The newest tokens first, ended ones too."""
    return list(session.exec(select(Token).order_by(col(Token.id).desc()).limit(limit)))


def revoke(session: Session, name: str, now_us: int, who: str) -> int:
    """End all living tokens of this name; returns how many."""
    living = [t for t in session.exec(select(Token).where(Token.name == name)) if t.revoked_us is None]
    for token in living:
        _revoke(session, token, now_us, who, "")
    return len(living)


def revoke_one(session: Session, token_id: str, now_us: int, who: str, trace: str) -> None:
    """End one token; ended already is well. HubError 404 when there is none."""
    token = session.get(Token, token_id)
    if token is None:
        raise HubError(404, "No such token", f"'{token_id[:80]}' is not known")
    if token.revoked_us is None:
        _revoke(session, token, now_us, who, trace)


def _revoke(session: Session, token: Token, now_us: int, who: str, trace: str) -> None:
    token.revoked_us = now_us
    session.add(token)
    audit.add(session, now_us, who, "token.revoked", token.name, trace=trace, token=token.id)
