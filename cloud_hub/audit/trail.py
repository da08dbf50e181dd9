"""Writes, reads and verifies the audit trail: each change with its actor and result, in a hash chain.

A row is added in the transaction of the change itself, and triggers in the database refuse updates and deletes. If
those are bypassed, `verify` finds a changed, removed or inserted row. It finds removed rows at the end only if the head
was stored elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert
from sqlmodel import Session, select

from cloud_hub.database import locks, scopes
from cloud_hub.database.tables import AuditRow
from shared.ids import trace_id
from shared.protocol.codec import encode

GENESIS = "0" * 64


_AUDIT: Any = AuditRow.__table__  # type: ignore[attr-defined]
_LAST = select(_AUDIT.c.hash).order_by(_AUDIT.c.seq.desc()).limit(1)
_INSERT = insert(_AUDIT)
_COVERED = ("t_us", "actor", "kind", "subject", "device", "trace_id", "detail")


def _digest(before: str, row: dict[str, Any]) -> str:
    return hashlib.sha256(encode([before, *(row[name] for name in _COVERED)])).hexdigest()


def add(
    session: Session,
    now_us: int,
    actor: str,
    kind: str,
    subject: str,
    *,
    device: str = "",
    trace: str = "",
    **detail: Any,
) -> None:
    """Add one row. `actor` is the name of a token, a device or a part of the hub; `kind` such as `action.approved`."""
    locks.lock_audit_trail(session)
    connection = session.connection()
    row = {"t_us": now_us, "actor": actor, "kind": kind, "subject": subject, "device": device,
           "trace_id": trace_id(trace), "detail": detail}  # fmt: skip
    # This transaction holds the trail's lock, so its end is read once.
    before = session.info.get("audit_hash") or connection.execute(_LAST).scalar() or GENESIS
    row["hash"] = session.info["audit_hash"] = _digest(before, row)
    connection.execute(_INSERT, row)


def verify(session: Session, head: tuple[int, str] | None = None) -> int | None:
    """Number of the first row whose hash does not match, or None if the chain is intact.

    `head` is (number, hash) of a row that was stored elsewhere; its number is returned if it is missing or different.
    """
    before, head_seen = GENESIS, head is None
    with closing(_stream(session, select(_AUDIT).order_by(_AUDIT.c.seq))) as stream:
        for row in stream:
            if _digest(before, row) != row["hash"]:
                return int(row["seq"])
            before = row["hash"]
            head_seen = head_seen or (row["seq"], before) == head
    return None if head_seen or head is None else head[0]


def head(session: Session) -> tuple[int, str]:
    """(number, hash) of the newest row; (0, GENESIS) if there is none. Stored elsewhere, it reveals removed rows."""
    last = (
        session.connection().execute(select(_AUDIT.c.seq, _AUDIT.c.hash).order_by(_AUDIT.c.seq.desc()).limit(1)).first()
    )
    return (0, GENESIS) if last is None else (last.seq, last.hash)


def _stream(session: Session, query: Any) -> Generator[dict[str, Any], None, None]:
    """Stream rows, a thousand in memory at a time."""
    with session.connection().execute(query, execution_options={"yield_per": 1000}) as result:
        for row in result.mappings():
            yield dict(row)


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Selects rows by since_us <= t < until_us, actor, device, kind (a prefix) and trace id; '' and None match all."""

    since_us: int | None = None
    until_us: int | None = None
    actor: str = ""
    device: str = ""
    kind: str = ""
    trace: str = ""

    def apply(self, query: Any) -> Any:
        """Restrict the query to these rows."""
        table = _AUDIT.c
        if self.since_us is not None:
            query = query.where(table.t_us >= self.since_us)
        if self.until_us is not None:
            query = query.where(table.t_us < self.until_us)
        for column, value in ((table.actor, self.actor), (table.device, self.device), (table.trace_id, self.trace)):
            query = query.where(column == value) if value else query
        if self.kind:  # LIKE differs between databases
            query = query.where(func.substr(table.kind, 1, len(self.kind)) == self.kind)
        return query


def rows(
    session: Session, *, since_us: int | None = None, until_us: int | None = None, actor: str = "", device: str = "",
    kind: str = "", trace: str = "", after: int | None = None, limit: int = 200,
) -> list[AuditRow]:  # fmt: skip
    """Rows that match (see `AuditFilter`), the newest first, below number `after`, within the session's scope."""
    wanted = AuditFilter(since_us=since_us, until_us=until_us, actor=actor, device=device, kind=kind, trace=trace)
    query = scopes.restrict(session, wanted.apply(select(AuditRow)), _AUDIT.c.device)
    if after is not None:
        query = query.where(_AUDIT.c.seq < after)
    return list(session.exec(query.order_by(_AUDIT.c.seq.desc()).limit(limit)))


def export(session: Session, wanted: AuditFilter) -> Iterator[dict[str, Any]]:
    """All matching rows, the oldest first, as stored."""
    return _stream(session, wanted.apply(select(_AUDIT)).order_by(_AUDIT.c.seq))
