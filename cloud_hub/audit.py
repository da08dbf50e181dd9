"""The audit trail: every change, who made it, with which result; each row's hash covers the row before.

Rows are added in the transaction of the change itself. A changed, removed or inserted row is found by
`verify`; a cut tail is not, unless the head is kept elsewhere.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import func, insert
from sqlmodel import Session, col, select

from cloud_hub import locks
from cloud_hub.tables import AuditRow
from shared.codec import encode
from shared.ids import trace_id

GENESIS = "0" * 64


_AUDIT: Any = AuditRow.__table__  # type: ignore[attr-defined]
_LAST = select(_AUDIT.c.hash).order_by(_AUDIT.c.seq.desc()).limit(1)
_INSERT = insert(_AUDIT)
_COVERED = ("t_us", "who", "kind", "subject", "device", "trace_id", "detail")


def _digest(before: str, row: dict[str, Any]) -> str:
    return hashlib.sha256(encode([before, *(row[name] for name in _COVERED)])).hexdigest()


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
    locks.lock_trail(session)
    connection = session.connection()
    row = {"t_us": now_us, "who": who, "kind": kind, "subject": subject, "device": device,
           "trace_id": trace_id(trace), "detail": detail}  # fmt: skip
    last = connection.execute(_LAST).scalar()
    connection.execute(_INSERT, row | {"hash": _digest(last or GENESIS, row)})


def verify(session: Session) -> int | None:
    """Number of the first row whose hash does not fit, or None when the whole chain holds."""
    before = GENESIS
    for row in session.exec(select(AuditRow).order_by(col(AuditRow.seq))):
        if _digest(before, row.model_dump()) != row.hash:
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
