"""The audit trail: every change, who made it, with which result; each row's hash covers the row before.

Rows are added in the transaction of the change itself. A changed, removed or inserted row is found by
`verify`; a cut tail is not, unless the head is kept elsewhere.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_hub import locks
from cloud_hub.tables import AuditRow
from shared.codec import encode
from shared.ids import trace_id

GENESIS = "0" * 64


def _digest(before: str, row: AuditRow) -> str:
    content = [before, row.t_us, row.who, row.kind, row.subject, row.device, row.trace_id, row.detail]
    return hashlib.sha256(encode(content)).hexdigest()


def _last(session: Session) -> AuditRow | None:
    return session.exec(select(AuditRow).order_by(col(AuditRow.seq).desc()).limit(1)).first()


def add(
    session: Session,
    now_us: int,
    who: str,
    kind: str,
    subject: str,
    *,
    device: str = "",
    trace: str = "",
    **detail: Any,
) -> None:
    """Add one row. `who` is a token's name, a device or a part of the hub; `kind` such as `action.approved`."""
    session.flush()
    locks.lock_trail(session)
    last = _last(session)
    row = AuditRow(
        t_us=now_us,
        who=who,
        kind=kind,
        subject=subject,
        device=device,
        trace_id=trace_id(trace),
        detail=detail,
        hash="",
    )
    row.hash = _digest(last.hash if last else GENESIS, row)
    session.add(row)
    session.flush()


def verify(session: Session) -> int | None:
    """Number of the first row whose hash does not fit, or None when the whole chain holds."""
    before = GENESIS
    for row in session.exec(select(AuditRow).order_by(col(AuditRow.seq))):
        if _digest(before, row) != row.hash:
            return row.seq
        before = row.hash
    return None


def rows(session: Session, *, device: str = "", kind: str = "", trace: str = "", limit: int = 200) -> list[AuditRow]:
    """The newest rows first, filtered by device, kind (a prefix) and trace id."""
    query = select(AuditRow).order_by(col(AuditRow.seq).desc()).limit(limit)
    if device:
        query = query.where(AuditRow.device == device)
    if kind:
        query = query.where(func.substr(AuditRow.kind, 1, len(kind)) == kind)  # LIKE differs between databases
    if trace:
        query = query.where(AuditRow.trace_id == trace)
    return list(session.exec(query))
