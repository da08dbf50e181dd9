"""The service of actions as the hub builds it, and proposals as a diagnosis makes them."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from cloud_hub.actions.service import ActionService, Proposal
from cloud_hub.app import open_actions
from cloud_hub.database.tables import Action, Incident
from cloud_hub.settings import Actions, Settings

APPROVAL = {"actor": "anna", "roles": "operator", "t_us": 1}


def action_service(settings: Actions | None = None, **more: Any) -> ActionService:
    """A service with the default policy of these settings."""
    return open_actions(Settings(actions=settings or Actions(), **more))


def propose_command(
    service: ActionService, session: Session, incident: Incident, verb: str, target: str, now_us: int
) -> Action:  # fmt: skip
    """What a diagnosis of the rules proposes for an incident."""
    wanted = Proposal(
        type="command", parameters={"verb": verb, "target": target}, device=incident.device, reason="it stalls",
        origin="diagnosis", proposer="rules", incident=incident.id, trace=incident.traceparent,
    )  # fmt: skip
    return service.propose(session, wanted, now_us)


def command_row(number: str, device: str, verb: str = "restart", target: str = "digits", **more: Any) -> Action:
    """A stored command action; an approved one was approved by Anna."""
    values: dict[str, Any] = {
        "incident": "", "reason": "r", "type": "command", "parameters": {"verb": verb, "target": target},
        "detail": f"{verb}/{target}", "operation": verb, "approvals": [APPROVAL], "idempotency_key": number,
    }  # fmt: skip
    return Action(id=number, device=device, **(values | more))
