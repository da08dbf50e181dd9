"""Collects what a shift saw from the database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import distinct, func, select
from sqlmodel import Session, col
from sqlmodel import select as select_rows

from cloud_hub.database import scopes
from cloud_hub.database.tables import Action, AlarmRow, AuditRow, Case, Incident
from cloud_hub.incidents import cases, groups
from cloud_hub.incidents.core.shift_report import PRIORITIES, ActionLine, GroupLine, ShiftReport, step_us
from cloud_hub.twins.core.reported_values import mapping, text

LISTED = 50
"""The maximum number of entries of each list."""
NOISIEST = 3
CHANGES = ("configuration.created", "configuration.changed", "configuration.deleted", "job.created", "rollout.started",
           "alarms.suppressed", "incident.merged", "incident.split", "hub.restored")  # fmt: skip
"""What people did that the report lists, besides actions."""

_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]
_INCIDENTS: Any = Incident.__table__  # type: ignore[attr-defined]
_AUDIT: Any = AuditRow.__table__  # type: ignore[attr-defined]
_CASES: Any = Case.__table__  # type: ignore[attr-defined]


def collect(session: Session, from_us: int, to_us: int) -> ShiftReport:
    """What happened from `from_us` until before `to_us`, within the session's scope."""
    mine, step = _INCIDENTS.c, step_us(from_us, to_us)
    opened = (mine.opened_us >= from_us, mine.opened_us < to_us)
    standing = (mine.state != "resolved", mine.opened_us < to_us)
    actions = _actions(session, from_us, to_us)
    alarms, total, noisiest = _alarm_counts(session, from_us, to_us, step)
    changes = _changes(session, from_us, to_us)
    counts = {
        "groups": _number(session, distinct(mine.page), *opened),
        "incidents": _number(session, mine.id, *opened),
        "resolved": _number(session, mine.id, mine.resolved_us >= from_us, mine.resolved_us < to_us),
        "standing": _number(session, distinct(mine.page), *standing),
        "alarms": total, "actions": len(actions), "changes": len(changes),
        **_outcomes(session, from_us, to_us),
    }  # fmt: skip
    return ShiftReport(
        from_us=from_us, to_us=to_us, step_us=step, counts=counts, alarms=alarms, noisiest=noisiest,
        opened=_groups(session, *opened), standing=_groups(session, *standing), actions=actions[:LISTED],
        changes=changes[:LISTED],
    )  # fmt: skip


def _number(session: Session, what: Any, *where: Any) -> int:
    query = scopes.restrict(session, select(func.count(what)).where(*where), _INCIDENTS.c.device)
    return int(session.connection().execute(query).scalar_one())


def _groups(session: Session, *where: Any) -> list[GroupLine]:
    """The newest groups with such incidents, by the incident that leads each; by another where that one is not seen."""
    mine = _INCIDENTS.c
    pages = scopes.restrict(session, select(mine.page).where(*where), mine.device)
    pages = pages.group_by(mine.page).order_by(func.max(mine.id).desc()).limit(LISTED)
    ids = list(session.connection().execute(pages).scalars())
    query = select(func.coalesce(func.min(mine.id).filter(mine.leads), func.min(mine.id))).where(mine.page.in_(ids))
    shown = session.connection().execute(scopes.restrict(session, query, mine.device).group_by(mine.page)).scalars()
    rows = session.exec(select_rows(Incident).where(col(Incident.id).in_(shown.all())).order_by(Incident.id)).all()
    counted = groups.summaries(session, ids)
    return [_group(row, counted[row.page]) for row in rows]


def _group(row: Incident, counted: groups.GroupSummary) -> GroupLine:
    return GroupLine(
        id=row.id, device=row.device, subject=row.subject, cause=text(mapping(row.diagnosis).get("cause")),
        members=counted.members, devices=counted.devices, opened_us=row.opened_us, state=counted.state,
        resolved_us=row.resolved_us, explanation=text(mapping(row.diagnosis).get("explanation"))[:500],
    )  # fmt: skip


def _actions(session: Session, from_us: int, to_us: int) -> list[ActionLine]:
    query = select_rows(Action).where(col(Action.changed_us) >= from_us, col(Action.changed_us) < to_us)
    query = scopes.restrict(session, query, col(Action.device)).order_by(col(Action.changed_us)).limit(1000)
    return [
        ActionLine(t_us=row.changed_us, device=row.device, name=_name(row), state=row.state, outcome=row.outcome)
        for row in session.exec(query)
    ]  # fmt: skip


def _name(action: Action) -> str:
    name = cases.action_name(cases.described(action))
    return f"{name} {action.detail}".strip() if name == action.type else name


def _outcomes(session: Session, from_us: int, to_us: int) -> dict[str, int]:
    mine = _CASES.c
    query = select(mine.outcome, func.count()).where(mine.resolved_us >= from_us, mine.resolved_us < to_us)
    rows = session.connection().execute(scopes.restrict(session, query, mine.device).group_by(mine.outcome))
    found = {outcome: count for outcome, count in rows}  # noqa: C416 - rows are no pairs to mypy
    return {"helped": found.get("helped", 0), "returned": found.get("returned", 0)}


def _alarm_counts(
    session: Session, from_us: int, to_us: int, step: int
) -> tuple[dict[str, list[int]], int, list[tuple[str, int]]]:
    """Alarms by priority and step, their number, and the devices with the most."""
    mine = _ALARMS.c
    within = (mine.received_us >= from_us, mine.received_us < to_us, mine.suppressed == "")
    bar = (mine.received_us - from_us) // step
    bars = {priority: [0] * (-(-(to_us - from_us) // step)) for priority in PRIORITIES}
    query = select(mine.priority, bar, func.count()).where(*within).group_by(mine.priority, bar)
    total = 0
    for priority, number, count in session.connection().execute(scopes.restrict(session, query, mine.device)):
        bars.setdefault(priority, [0] * len(bars["low"]))[int(number)] += count
        total += count
    most = select(mine.device, func.count().label("n")).where(*within).group_by(mine.device)
    most = scopes.restrict(session, most, mine.device).order_by(func.count().desc(), mine.device).limit(NOISIEST)
    return bars, total, [(device, count) for device, count in session.connection().execute(most)]


def _changes(session: Session, from_us: int, to_us: int) -> list[str]:
    mine = _AUDIT.c
    query = select(mine.kind, mine.subject, mine.actor).where(
        mine.t_us >= from_us, mine.t_us < to_us, mine.kind.in_(CHANGES)
    )
    rows = session.connection().execute(scopes.restrict(session, query, mine.device).order_by(mine.seq).limit(1000))
    return [f"{kind} {subject[:80]} by {actor}" for kind, subject, actor in rows]
