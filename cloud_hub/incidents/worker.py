"""Background workers of incidents: gather the evidence of open incidents, diagnose them, store the proposals."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, Command, Device, Incident
from cloud_hub.incidents import actions
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.core.evidence import AlarmFact, Diagnosis, Evidence
from cloud_hub.incidents.diagnosis import diagnose
from cloud_hub.inference.gateway.blocking import GatewayModel, LanguageModel
from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.runtime.context import HubContext
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import BURST_S, WorkerSpec, WorkResult
from cloud_hub.settings import Actions
from cloud_hub.telemetry import samples
from cloud_hub.twins import service as twins
from cloud_hub.twins.core import reported_values

log = logging.getLogger(__name__)

RECENT = 60
BATCH_SIZE = 100
"""The maximum number of incidents in one run."""
ACTIONS_S = 0.5


def workers(context: HubContext, gateway: Gateway | None = None) -> list[WorkerSpec]:
    """Diagnose incidents, execute actions, and apply suppressions that start or end.

    Diagnoses are asked of the gateway, if there is one; else the rules diagnose.
    """
    db, settings = context.db, context.settings.actions
    engine = GatewayModel(gateway) if gateway is not None else None

    def execute() -> WorkResult:
        return actions.run_once(db, now_us(), settings)

    def suppress() -> WorkResult:
        return incidents.apply_suppression_changes(db, now_us())

    return [
        WorkerSpec(name="diagnosis", run_once=lambda: run_once(db, engine, settings)),
        WorkerSpec(name="actions", run_once=execute, period_s=ACTIONS_S, linger_s=BURST_S),
        WorkerSpec(name="alarms", run_once=suppress, linger_s=BURST_S),
    ]


def gather_evidence(session: Session, incident: Incident) -> Evidence:
    """Collect what the hub knows about an incident."""
    alarms = incidents.alarms(session, incident.id)
    device = session.get(Device, incident.device)  # None: removed, or it raised an alarm before its first birth
    metrics = {
        alarm.metric: tuple(
            row.value for row in samples.series(session, incident.device, alarm.metric, limit=RECENT)
            if row.value is not None
        )
        for alarm in alarms
    }  # fmt: skip
    events = samples.events(session, incident.device, since_us=incident.opened_us - 600_000_000, limit=20)
    return Evidence(
        incident=incident.id,
        device=incident.device,
        profile=device.profile if device is not None else "",
        alarms=[
            AlarmFact(
                metric=a.metric, kind=a.kind, priority=a.priority, value=a.value, limit=a.limit,  # type: ignore[arg-type]
                state=a.state, t_us=a.raised_us, about=a.about,  # type: ignore[arg-type]
            )
            for a in alarms
        ],
        metrics=metrics,
        events=[f"{row.level}: {row.text}" for row in reversed(events)],
        reported=twins.reported(session, incident.device),
        command_output=_diagnose_output(session, incident),
    )  # fmt: skip


def _diagnose_output(session: Session, incident: Incident) -> dict[str, str | float]:
    """The output of the incident's last diagnose command."""
    query = (
        select(Command)
        .join(Action, col(Action.command) == col(Command.id))
        .where(Action.incident == incident.id, Action.verb == "diagnose", Command.state == "succeeded")
    )
    row = session.exec(query.order_by(col(Command.id).desc())).first()
    return dict(reported_values.mapping(row.output)) if row is not None else {}


def run_once(db: Database, engine: LanguageModel | None, settings: Actions) -> WorkResult:
    """Diagnose the waiting incidents one by one. The engine is called outside any transaction."""
    now = now_us()
    items = WorkItems(db, "diagnosis", now)
    with db.read() as session:
        waiting = incidents.list_undiagnosed(session, items.ready("incident", Incident.id), BATCH_SIZE)
    done = [
        items.run("incident", incident_id, partial(_diagnose, db, incident_id, engine, settings))
        for incident_id in waiting
    ]
    return items.result(again=len(waiting) == BATCH_SIZE, wake=["actions"] if any(done) else ())


def _diagnose(db: Database, incident_id: str, engine: LanguageModel | None, settings: Actions) -> bool:
    """Diagnose one incident; False if it no longer exists."""
    with db.read() as session:
        incident = session.get(Incident, incident_id)
        if incident is None:
            return False
        facts = gather_evidence(session, incident)
        device = session.get(Device, incident.device)
    if isinstance(engine, GatewayModel):
        engine = engine.about((device.assigned_path,) if device is not None and device.assigned_path else ())
    _store(db, incident_id, diagnose(facts, engine), settings)
    return True


def _store(db: Database, incident_id: str, diagnosis: Diagnosis, settings: Actions) -> None:
    now = now_us()
    plain = msgspec.to_builtins(replace(diagnosis, proposals=[]))
    with db.write() as session:
        if incidents.get(session, incident_id).diagnosed_us is not None:  # another hub was faster
            return
        incident = incidents.record_diagnosis(session, incident_id, plain, now)
        for proposal in diagnosis.proposals:
            actions.propose(session, incident, proposal.verb, proposal.target, proposal.reason, now, settings)
        incidents.settle(session, incident_id, now)
    fields = {"incident": incident_id, "cause": diagnosis.cause, "author": diagnosis.author, "note": diagnosis.note}
    log.info("incident.diagnosed", extra={"fields": fields, "trace": incident.traceparent})
