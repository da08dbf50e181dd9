"""/api/v1/escalations: frames that edge models escalated to an expert, with its answers."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from sqlmodel import col, select

from cloud_hub.api.dependencies import Reader, TheHub
from cloud_hub.database import scopes
from cloud_hub.database.tables import EscalationRow

router = APIRouter(prefix="/api/v1", tags=["escalations"])


class EscalationView(BaseModel):
    """An escalation without its frame."""

    id: str
    device: str
    model: str
    number: int
    reason: str
    label: str
    margin: float
    answer: str | None
    confidence: float | None
    expert: str
    t_us: int
    received_us: int
    answered_us: int | None
    wire_bytes: int


@router.get("/escalations")
def escalations(
    hub: TheHub, caller: Reader, device: str = "", model: str = "", since_us: int = 0, limit: int = 1000
) -> list[EscalationView]:
    """List escalations by time of receipt: the oldest `limit` (at most 50,000) since `since_us`."""
    query = select(EscalationRow).where(col(EscalationRow.received_us) > min(max(since_us, 0), 1 << 62))
    if device:
        query = query.where(EscalationRow.device == device)
    if model:
        query = query.where(EscalationRow.model == model)
    query = query.order_by(col(EscalationRow.received_us), EscalationRow.id).limit(min(max(limit, 1), 50_000))
    with hub.db.read(scope=caller.scope) as session:
        rows = session.exec(scopes.restrict(session, query, col(EscalationRow.device)))
        return [EscalationView(**row.model_dump(exclude={"frame", "features"})) for row in rows]
