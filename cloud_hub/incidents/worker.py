"""Background workers of incidents: group them, diagnose the open ones, close the cases of the resolved ones."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import msgspec
from sqlmodel import Session, col

from cloud_hub.actions.service import ActionService
from cloud_hub.actions.service import Proposal as ActionProposal
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, Incident
from cloud_hub.devices import dependencies
from cloud_hub.errors import HubError
from cloud_hub.incidents import cases, evidence, groups, regrouping
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.core.evidence import Diagnosis, Proposal
from cloud_hub.incidents.core.grouping import site_of
from cloud_hub.incidents.desk import Desk, open_desk
from cloud_hub.incidents.diagnosis import diagnose, follow_lead
from cloud_hub.inference.gateway.blocking import GatewayModel, LanguageModel
from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.playbooks import proposals
from cloud_hub.playbooks import service as playbook_runs
from cloud_hub.playbooks.catalogue import PlaybookCatalogue
from cloud_hub.runtime.context import HubContext
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import BURST_S, WorkerSpec, WorkResult

log = logging.getLogger(__name__)

SHIPPED = PlaybookCatalogue()
BATCH_SIZE = 100
"""The maximum number of incidents in one run."""
CASES_S = 60.0


def workers(context: HubContext, actions: ActionService, gateway: Gateway | None = None) -> list[WorkerSpec]:
    """Diagnose incidents, and apply suppressions that start or end; raises ConfigError.

    Diagnoses are asked of the gateway, if there is one; else the rules diagnose.
    """
    db, playbooks = context.db, PlaybookCatalogue(context.settings.playbooks.folder)
    engine = GatewayModel(gateway) if gateway is not None else None
    desk = open_desk(context.settings.desk)

    def suppress() -> WorkResult:
        return incidents.apply_suppression_changes(db, now_us())

    return [
        WorkerSpec(name="grouping", run_once=lambda: regrouping.run_once(db, now_us()), linger_s=BURST_S),
        WorkerSpec(name="diagnosis", run_once=lambda: run_once(db, engine, actions, playbooks, desk)),
        WorkerSpec(name="cases", run_once=lambda: cases.run_once(db, now_us()), period_s=CASES_S),
        WorkerSpec(name="alarms", run_once=suppress, linger_s=BURST_S),
    ]


def run_once(
    db: Database, engine: LanguageModel | None, actions: ActionService, playbooks: PlaybookCatalogue = SHIPPED,
    desk: Desk | None = None,
) -> WorkResult:  # fmt: skip
    """Diagnose the waiting incidents one by one. The engine is called outside any transaction."""
    now = now_us()
    items = WorkItems(db, "diagnosis", now)
    _place(db, items, now)
    with db.read() as session:
        waiting = incidents.list_undiagnosed(session, items.ready("incident", Incident.id), BATCH_SIZE)
    done = [
        items.run("incident", incident_id, partial(_diagnose, db, incident_id, engine, actions, playbooks, desk))
        for incident_id in waiting
    ]
    return items.result(again=len(waiting) == BATCH_SIZE, wake=["actions", "playbooks"] if any(done) else ())


def _place(db: Database, items: WorkItems, now_us: int) -> None:
    """Apply the topology to waiting incidents that it was not applied to: members of a group cost no engine."""
    with db.read() as session:
        due = col(Incident.grouped_us).is_(None) & items.ready("incident", Incident.id)
        new = incidents.list_undiagnosed(session, due, BATCH_SIZE) if dependencies.any_edges(session) else []
    for incident_id in new:
        items.run("incident", incident_id, partial(regrouping.apply, db, incident_id, now_us))


def _diagnose(
    db: Database, incident_id: str, engine: LanguageModel | None, actions: ActionService, playbooks: PlaybookCatalogue,
    desk: Desk | None,
) -> bool:  # fmt: skip
    """Diagnose one incident; False if it no longer exists.

    A group costs one question to an engine: its members get the diagnosis of the incident that leads it.
    """
    with db.read() as session:
        incident = session.get(Incident, incident_id)
        if incident is None:
            return False
        facts = evidence.gather(session, incident)
        device = session.get(Device, incident.device)
        path = device.assigned_path if device is not None else ""
        lead = None if incident.leads else _diagnosed_lead(session, incident, path)
    with db.write() as session:
        evidence.save(session, facts, now_us())
    if lead is not None and lead.diagnosis is not None:
        _store(db, incident_id, follow_lead(lead.id, lead.diagnosis, facts, desk), actions, playbooks)
        return True
    if isinstance(engine, GatewayModel):
        engine = engine.about((path,) if path else ())
    _store(db, incident_id, diagnose(facts, engine if incident.leads else None, desk), actions, playbooks)
    return True


def _diagnosed_lead(session: Session, incident: Incident, path: str) -> Incident | None:
    """The diagnosed incident that leads the group. One of another site does not count: people here may not see it."""
    lead = groups.lead(session, incident.page)
    if lead is None or lead.diagnosed_us is None:
        return None
    device = session.get(Device, lead.device)
    other = device.assigned_path if device is not None else ""
    same_site = site_of(other) == site_of(path) if path else lead.device == incident.device
    return lead if same_site else None


def _store(
    db: Database, incident_id: str, diagnosis: Diagnosis, actions: ActionService, playbooks: PlaybookCatalogue
) -> None:  # fmt: skip
    now = now_us()
    plain = msgspec.to_builtins(replace(diagnosis, proposals=[]))
    with db.write() as session:
        if incidents.get(session, incident_id).diagnosed_us is not None:  # another hub was faster
            return
        incident = incidents.record_diagnosis(session, incident_id, plain, now)
        for proposal in diagnosis.proposals:
            _propose(session, incident, diagnosis, proposal, actions, playbooks, now)
        incidents.settle(session, incident_id, now)
    fields = {"incident": incident_id, "cause": diagnosis.cause, "author": diagnosis.author, "note": diagnosis.note}
    log.info("incident.diagnosed", extra={"fields": fields, "trace": incident.traceparent})


def _propose(
    session: Session, incident: Incident, diagnosis: Diagnosis, proposal: Proposal, actions: ActionService,
    playbooks: PlaybookCatalogue, now_us: int,
) -> None:  # fmt: skip
    """Hand a proposal to the policy; what no type accepts is left out. While a playbook runs for it, all is."""
    if playbook_runs.under_way(session, incident.id):
        return
    wanted = ActionProposal(
        type=proposal.action, parameters=proposal.parameters, device=incident.device, reason=proposal.reason,
        origin="diagnosis", proposer=diagnosis.author, incident=incident.id, trace=incident.traceparent,
    )  # fmt: skip
    try:
        if proposal.action == "playbook":
            proposals.propose(
                session, actions, playbooks, proposal.parameters, now_us, device=incident.device,
                actor=diagnosis.author, incident=incident.id, trace=incident.traceparent,
            )  # fmt: skip
        else:
            actions.propose(session, wanted, now_us)
    except HubError as error:
        fields = {"incident": incident.id, "type": proposal.action, "reason": str(error)}
        log.warning("incident.proposal_refused", extra={"fields": fields, "trace": incident.traceparent})
