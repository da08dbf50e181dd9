"""Playbooks that a diagnosis proposes for an incident."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.actions.service import ActionService
from cloud_hub.database.tables import PlaybookRun
from cloud_hub.errors import HubError
from cloud_hub.playbooks import service
from cloud_hub.playbooks.actions import judge_plan
from cloud_hub.playbooks.catalogue import PlaybookCatalogue
from cloud_hub.playbooks.clock import steady


def propose(
    session: Session, actions: ActionService, catalogue: PlaybookCatalogue, parameters: dict[str, Any], now_us: int, *,
    device: str, actor: str, incident: str, trace: str,
) -> PlaybookRun | None:  # fmt: skip
    """Propose the run of the playbook `name` of `parameters`, with the rest of them; None if the incident has it open.

    Its parameter `device` is always the incident's device: no diagnosis reaches another one by it. HubError if there is
    no such playbook, its parameters are wrong, or the policy forbids a step.
    """
    name, values = str(parameters.get("name", "")), {key: value for key, value in parameters.items() if key != "name"}
    plan = catalogue.plan(name, values | {"device": device})
    if others := sorted({step.device for step in plan.steps if step.device} - {device}):
        raise HubError(409, "Another device", f"the playbook '{name}' acts on {others[0][:80]}, not on {device} alone")
    same = (PlaybookRun.incident == incident, PlaybookRun.playbook == plan.playbook,
            col(PlaybookRun.state).in_(service.OPEN))  # fmt: skip
    if session.exec(select(PlaybookRun.id).where(*same)).first() is not None:
        return None
    verdicts = judge_plan(session, actions, plan, now_us, actor=actor, origin="diagnosis")
    return service.propose(
        session, plan, verdicts, steady.now_us(), actor=actor, trace=trace, origin="diagnosis", incident=incident
    )
