"""/api/v1/notifications: sent, waiting and failed notifications of each channel."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from sqlmodel import col, select

from cloud_hub.api.dependencies import Reader, TheHub
from cloud_hub.database import scopes
from cloud_hub.database.tables import Notification

router = APIRouter(prefix="/api/v1", tags=["incidents"])


@router.get("/notifications")
def notifications(
    hub: TheHub, caller: Reader, channel: str = "", page: str = "",
    state: Literal["", "waiting", "notified", "closed", "given-up"] = "", limit: int = 100,
) -> list[Notification]:  # fmt: skip
    """List notifications, the newest first."""
    query = select(Notification).order_by(col(Notification.id).desc()).limit(min(max(limit, 1), 1000))
    for column, value in ((Notification.channel, channel), (Notification.page, page), (Notification.state, state)):
        query = query.where(column == value) if value else query
    with hub.db.read(scope=caller.scope) as session:
        return list(session.exec(scopes.restrict(session, query, col(Notification.device))))
