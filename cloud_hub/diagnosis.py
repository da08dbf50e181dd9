"""The incident desk in the hub: gathers the evidence of an open incident, has it diagnosed, files the proposals."""

from __future__ import annotations

import logging
from dataclasses import replace

import msgspec
from sqlmodel import Session, col, select

from cloud_hub import fleet, incidents, telemetry, twins
from cloud_hub.actions import desk as actions
from cloud_hub.clock import now_us
from cloud_hub.db import Database
from cloud_hub.glm.desk import diagnose
from cloud_hub.glm.engines import Engine
from cloud_hub.glm.evidence import AlarmFact, Diagnosis, Evidence
from cloud_hub.settings import Actions
from cloud_hub.tables import Action, Command, Incident

log = logging.getLogger(__name__)

RECENT = 60


def evidence(session: Session, incident: Incident) -> Evidence:
    """All that the hub knows of one incident."""
    alarms = incidents.alarms(session, incident.id)
    metrics = {
        alarm.metric: tuple(
            row.value for row in telemetry.series(session, incident.device, alarm.metric, limit=RECENT)
            if row.value is not None
        )
        for alarm in alarms
    }  # fmt: skip
    events = telemetry.events(session, incident.device, since_us=incident.opened_us - 600_000_000, limit=20)
    return Evidence(
        incident=incident.id,
        device=incident.device,
        profile=fleet.device(session, incident.device).profile,
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
        command_output=_looked(session, incident),
    )  # fmt: skip


def _looked(session: Session, incident: Incident) -> dict[str, str | float]:
    """Output of the incident's last diagnose command."""
    query = (
        select(Command)
        .join(Action, col(Action.command) == col(Command.id))
        .where(Action.incident == incident.id, Action.verb == "diagnose", Command.state == "succeeded")
    )
    row = session.exec(query.order_by(col(Command.id).desc())).first()
    return dict(row.output) if row is not None else {}


def step(db: Database, engine: Engine | None, settings: Actions) -> bool:
    """Diagnose every incident that waits; True when there was one. The engine is asked outside any transaction."""
    with db.read() as session:
        waiting = [(incident.id, evidence(session, incident)) for incident in incidents.undiagnosed(session)]
    for incident_id, facts in waiting:
        _file(db, incident_id, diagnose(facts, engine), settings)
    return bool(waiting)


def _file(db: Database, incident_id: str, found: Diagnosis, settings: Actions) -> None:
    now = now_us()
    plain = msgspec.to_builtins(replace(found, proposals=[]))
    with db.write() as session:
        if incidents.get(session, incident_id).diagnosed_us is not None:  # by another hub, meanwhile
            return
        incident = incidents.diagnosed(session, incident_id, plain, now)
        for proposal in found.proposals:
            actions.propose(session, incident, proposal.verb, proposal.target, proposal.reason, now, settings)
        incidents.settle(session, incident_id, now)
    fields = {"incident": incident_id, "cause": found.cause, "author": found.author, "note": found.note}
    log.info("incident.diagnosed", extra={"fields": fields, "trace": incident.traceparent})
