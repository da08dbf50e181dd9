"""/api/v1/audit: reads the audit trail."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from cloud_hub.api.dependencies import Auditor, TheHub
from cloud_hub.audit import trail as audit
from cloud_hub.database.tables import AuditRow

router = APIRouter(prefix="/api/v1", tags=["audit"])

Number = Annotated[int | None, Query(ge=0, lt=1 << 62)]


class AuditView(BaseModel):
    """The newest rows first. If `next` is set, there are more: send it as `after`.

    `verified` is whether the hash chain is intact, and `broken_at` the first row that breaks it. The chain is
    walked only when `verify` is asked for; otherwise `verified` is null.
    """

    verified: bool | None
    broken_at: int | None
    rows: list[AuditRow]
    next: int | None = None


@router.get("/audit")
def trail(
    hub: TheHub, caller: Auditor, since_us: Number = None, until_us: Number = None, actor: str = "", device: str = "",
    kind: str = "", trace: str = "", after: Number = None, limit: int = 200, verify: bool = False,
) -> AuditView:  # fmt: skip
    """Search the audit trail by time, actor, device, kind (or a prefix) and trace; `verify` checks the hash chain."""
    size = min(max(limit, 1), 10_000)
    with hub.db.read(scope=caller.scope) as session:
        rows = audit.rows(
            session,
            since_us=since_us,
            until_us=until_us,
            actor=actor,
            device=device,
            kind=kind,
            trace=trace,
            after=after,
            limit=size + 1,
        )
        broken = audit.verify(session) if verify else None
    more = rows[size - 1].seq if len(rows) > size else None
    return AuditView(verified=broken is None if verify else None, broken_at=broken, rows=rows[:size], next=more)
