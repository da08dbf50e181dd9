"""Creates, checks and revokes REST tokens. A token has roles, a scope and an expiry; only its SHA-256 is stored."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, NamedTuple, TypeVar
from unicodedata import normalize

import sqlalchemy
from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database.driver_query import DriverQuery
from cloud_hub.database.scopes import validate_path
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Token
from cloud_hub.errors import HubError, WrongToken
from cloud_hub.security.core.roles import MAY, Identity, Scope, format_roles
from cloud_hub.twins.core.owners import RESERVED
from shared.errors import ConfigError

__all__ = [
    "LIFE_DAYS",
    "MAY",
    "authenticate",
    "authenticate_digest",
    "create",
    "digest",
    "find",
    "identity",
    "is_active",
    "list_newest",
    "revoke_by_id",
    "revoke_by_name",
]

LIFE_DAYS = 90
"""Default lifetime of a token."""
MAX_NAME = 200
_OWN = ("hub", "command line")
_TOKENS: Any = Token.__table__  # type: ignore[attr-defined]


class _Row(NamedTuple):
    """The columns of a token that authentication needs. An object of the database layer costs as much as the query."""

    name: str
    role: str
    scope: list[str] | None
    expires_us: int | None
    revoked_us: int | None


_BY_DIGEST = DriverQuery(
    sqlalchemy.select(*(_TOKENS.c[name] for name in _Row._fields)).where(_TOKENS.c.digest == bindparam("digest"))
)


def digest(text: str) -> str:
    """The SHA-256 under which a token is stored."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def create(
    session: Session, name: str, role: str, now_us: int, actor: str, *, scope: Scope = None,
    expires_us: int | None = None, trace: str = "",
) -> str:  # fmt: skip
    """Create a token and return its text, which cannot be read again. Changes made with it are owned by its name.

    `role` is one or more roles, separated by spaces. Raises ConfigError for invalid values.
    """
    if name.startswith(RESERVED) or name in _OWN:
        cure = f"begin with anything but {', '.join(RESERVED)}, and take neither of {', '.join(_OWN)}"
        raise ConfigError("token name", f"'{name[:80]}' would pass for the hub's own", cure)
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ConfigError("token name", "is empty, too long or not printable", f"give 1 to {MAX_NAME} characters")
    if normalize("NFC", " ".join(name.split())) != name:  # who looks like one person must not approve as two
        raise ConfigError("token name", f"{name[:80]!r} has spaces or letters that look like others",
                          "write single spaces between words, and letters in composed form (NFC)")  # fmt: skip
    try:
        roles, paths = format_roles(role.split()), None if scope is None else [validate_path(path) for path in scope]
    except ValueError as error:
        raise ConfigError("token", str(error), "see docs/rest.md") from error
    if not roles or paths == []:
        raise ConfigError("token", "has no role, or a scope without a path", f"give one of {', '.join(MAY)}")
    text = f"tg_{secrets.token_urlsafe(32)}"
    session.add(Token(id=new_id(), name=name, role=roles, digest=digest(text), created_us=now_us, scope=paths,
                      expires_us=expires_us))  # fmt: skip
    trail.add(
        session, now_us, actor, "token.created", name, trace=trace, role=roles, scope=paths, expires_us=expires_us
    )
    return text


def find(session: Session, text: str, now_us: int) -> Token:
    """The valid token with this text; HubError 401 if it ended, WrongToken if it never existed."""
    return _require_active(session.exec(select(Token).where(Token.digest == digest(text))).first(), now_us)


_Found = TypeVar("_Found", Token, _Row)


def _require_active(row: _Found | None, now_us: int) -> _Found:
    if row is None:
        raise WrongToken("send a living token as 'Authorization: Bearer tg_...'")
    if not _is_active(row, now_us):
        state = "was revoked" if row.revoked_us is not None else "has expired"
        raise HubError(401, "Not signed in", f"this token {state}: send a living one as 'Authorization: Bearer tg_...'")
    return row


def _is_active(row: Token | _Row, now_us: int) -> bool:
    return row.revoked_us is None and (row.expires_us is None or now_us < row.expires_us)


def authenticate(db: Database, text: str, now_us: int) -> Identity:
    """The identity behind a token, checked as in `find`, with one fast query."""
    return authenticate_digest(db, digest(text), now_us)


def authenticate_digest(db: Database, digest: str, now_us: int) -> Identity:
    """The identity behind the token with this SHA-256: sessions of the operator pages keep no token."""
    row = db.first(_BY_DIGEST, digest=digest)
    return identity(_require_active(None if row is None else _Row(*row), now_us))


def identity(row: Token | _Row) -> Identity:
    """The identity that a token stands for."""
    return Identity(actor=row.name, roles=row.role, scope=None if row.scope is None else tuple(row.scope))


def is_active(session: Session, token_id: str, now_us: int) -> bool:
    """Whether this token exists and is neither revoked nor expired."""
    row = session.get(Token, token_id)
    return row is not None and _is_active(row, now_us)


def list_newest(session: Session, limit: int) -> list[Token]:
    """Tokens, the newest first, including ended ones."""
    return list(session.exec(select(Token).order_by(col(Token.id).desc()).limit(limit)))


def revoke_by_name(session: Session, name: str, now_us: int, actor: str) -> int:
    """Revoke all tokens of this name; returns how many."""
    living = [t for t in session.exec(select(Token).where(Token.name == name)) if t.revoked_us is None]
    for token in living:
        _revoke(session, token, now_us, actor, "")
    return len(living)


def revoke_by_id(session: Session, token_id: str, now_us: int, actor: str, trace: str) -> None:
    """Revoke one token; does nothing if it was revoked before. HubError 404 if it does not exist."""
    token = session.get(Token, token_id)
    if token is None:
        raise HubError(404, "No such token", f"'{token_id[:80]}' is not known")
    if token.revoked_us is None:
        _revoke(session, token, now_us, actor, trace)


def _revoke(session: Session, token: Token, now_us: int, actor: str, trace: str) -> None:
    token.revoked_us = now_us
    session.add(token)
    trail.add(session, now_us, actor, "token.revoked", token.name, trace=trace, token=token.id)
