"""/api/v1/actions: what is proposed, approved and done to devices and other systems."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from cloud_hub.api.dependencies import Operator, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database.tables import Action

router = APIRouter(prefix="/api/v1", tags=["actions"])


class DecisionBody(BaseModel):
    """The decision on a proposed action."""

    model_config = ConfigDict(extra="forbid")
    approve: bool


@router.post("/actions/{action_id}/decision")
def decide(action_id: str, body: DecisionBody, hub: TheHub, caller: Operator) -> Action:
    """Approve or refuse a proposed action. The policy says how many people must approve, and with which roles."""
    with hub.db.write(scope=caller.scope) as session:
        if body.approve:
            action = hub.actions.approve(session, action_id, caller.actor, caller.roles, now_us())
        else:
            action = hub.actions.refuse(session, action_id, caller.actor, now_us())
    hub.notify("actions")
    return action
