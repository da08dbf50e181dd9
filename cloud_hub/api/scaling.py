"""/api/v1/scaling/steps: the autoscaler's decisions."""

from __future__ import annotations

from fastapi import APIRouter
from sqlmodel import col, select

from cloud_hub.api.dependencies import Reader, TheHub
from cloud_hub.database.tables import ScaleStep

router = APIRouter(prefix="/api/v1", tags=["scaling"])


@router.get("/scaling/steps")
def steps(hub: TheHub, caller: Reader, limit: int = 100) -> list[ScaleStep]:
    """The autoscaler's decisions, the newest first."""
    caller.needs_all()
    query = select(ScaleStep).order_by(col(ScaleStep.id).desc()).limit(min(max(limit, 1), 1000))
    with hub.db.read(scope=caller.scope) as session:
        return list(session.exec(query))
