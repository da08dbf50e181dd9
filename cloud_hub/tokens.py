"""REST tokens: made once, shown once, stored as SHA-256. A role says what a token may do. No passwords anywhere."""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

from sqlmodel import Session, select

from cloud_hub import audit
from cloud_hub.clock import new_id
from cloud_hub.errors import HubError
from cloud_hub.tables import Token

Role = Literal["viewer", "operator", "auditor", "admin"]

MAY: dict[str, frozenset[str]] = {
    "viewer": frozenset({"read"}),
    "operator": frozenset({"read", "operate"}),
    "auditor": frozenset({"read", "audit"}),
    "admin": frozenset({"read", "operate", "audit", "administer"}),
}
"""What each role may do; the table is exhaustive and tested."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def create(session: Session, name: str, role: Role, now_us: int, who: str) -> str:
    """Make a token and return its text, which nobody can read again."""
    text = f"tg_{secrets.token_urlsafe(32)}"
    session.add(Token(id=new_id(), name=name, role=role, digest=_digest(text), created_us=now_us))
    audit.add(session, now_us, who, "token.created", name, role=role)
    return text


def find(session: Session, text: str) -> Token:
    """The living token behind `text`, or HubError 401."""
    row = session.exec(select(Token).where(Token.digest == _digest(text))).first()
    if row is None or row.revoked_us is not None:
        raise HubError(401, "Not signed in", "send a living token as 'Authorization: Bearer tg_...'")
    return row


def living(session: Session, token_id: str) -> bool:
    """Whether this token is there and not revoked."""
    row = session.get(Token, token_id)
    return row is not None and row.revoked_us is None


def require(token: Token, power: str) -> None:
    """Raise HubError 403 unless the token's role has `power`."""
    if power not in MAY[token.role]:
        raise HubError(403, "Not allowed", f"role '{token.role}' may not {power}")


def revoke(session: Session, name: str, now_us: int, who: str) -> int:
    """End all living tokens of this name; returns how many."""
    living = [t for t in session.exec(select(Token).where(Token.name == name)) if t.revoked_us is None]
    for token in living:
        token.revoked_us = now_us
        session.add(token)
        audit.add(session, now_us, who, "token.revoked", name)
    return len(living)
