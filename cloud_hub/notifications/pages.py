"""Loads pages from the database: incidents that are notified together, with their alarms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from sqlalchemy import or_
from sqlmodel import Session, col, select

from cloud_hub.database.tables import AlarmRow, Device, Incident
from cloud_hub.incidents.service import REMOVED
from cloud_hub.notifications import RANK, Page, PageAlarm, PageIncident
from cloud_hub.twins.core.reported_values import mapping

BATCH_SIZE = 500
"""Ids of one query; databases limit the number of parameters."""
_T = TypeVar("_T")


def open_pages(session: Session, since_id: str) -> set[str]:
    """Pages that have an unresolved incident, or one whose id is `since_id` or later (ids sort by time)."""
    query = select(Incident.id, Incident.page).where(
        or_(col(Incident.state) != "resolved", col(Incident.id) >= since_id)
    )
    return {page or incident_id for incident_id, page in session.exec(query)}


def load_pages(session: Session, ids: Iterable[str]) -> dict[str, Page]:
    """Load the current state of these pages, by id. Pages without an alarm are left out.

    Raises ValueError for an alarm with an unknown priority.
    """
    wanted = sorted(set(ids))
    incidents = [
        row
        for some in _chunks(wanted)
        for row in session.exec(select(Incident).where(or_(col(Incident.id).in_(some), col(Incident.page).in_(some))))
    ]
    alarms: dict[str, list[AlarmRow]] = {}
    for some in _chunks([row.id for row in incidents]):
        query = select(AlarmRow).where(col(AlarmRow.incident).in_(some))
        for alarm in session.exec(query.order_by(col(AlarmRow.raised_us), AlarmRow.id)):
            alarms.setdefault(alarm.incident, []).append(alarm)
    members: dict[str, list[Incident]] = {}
    for row in sorted(incidents, key=lambda candidate: candidate.id):
        members.setdefault(row.page or row.id, []).append(row)
    paths = _paths(session, {row.device for row in incidents})
    pages = {page: _page(page, rows, alarms, paths) for page, rows in members.items() if page in set(wanted)}
    return {page: candidate for page, candidate in pages.items() if candidate is not None}


def _page(page: str, rows: list[Incident], alarms: dict[str, list[AlarmRow]], paths: dict[str, str]) -> Page | None:
    """The page of the alarms that are not suppressed; of the suppressed ones if there are no others."""
    active = {row.id: [one for one in alarms.get(row.id, ()) if not one.suppressed] for row in rows}
    suppressed = not any(active.values())
    chosen = alarms if suppressed else active
    mine = [_incident(row, chosen[row.id], paths.get(row.device, "")) for row in rows if chosen.get(row.id)]
    left = [one for one in mine if not one.removed] or mine
    return Page(id=page, incidents=tuple(left), suppressed=suppressed) if left else None


def _incident(row: Incident, alarms: list[AlarmRow], path: str) -> PageIncident:
    diagnosis = mapping(row.diagnosis)
    resolved_us = None if row.state != "resolved" else row.resolved_us or row.opened_us
    return PageIncident(
        device=row.device, subject=row.subject, path=path, opened_us=row.opened_us, resolved_us=resolved_us,
        alarms=tuple(map(_alarm, alarms)), diagnosis=str(diagnosis.get("summary") or diagnosis.get("cause") or ""),
        removed=any(alarm.cleared_reason == REMOVED for alarm in alarms),
        explains=row.leads and row.silent and row.id != row.page,
    )  # fmt: skip


def _alarm(row: AlarmRow) -> PageAlarm:
    if row.priority not in RANK:
        raise ValueError(f"alarm {row.id} has the unknown priority '{row.priority[:40]}'")
    return PageAlarm(
        device=row.device, metric=row.metric, kind=row.kind, priority=row.priority,  # type: ignore[arg-type]
        value=row.value, limit=row.limit, raised_us=row.raised_us, cleared_us=row.cleared_us, about=row.about,
        acknowledged=row.acked_us is not None,
    )  # fmt: skip


def _paths(session: Session, devices: set[str]) -> dict[str, str]:
    paths: dict[str, str] = {}
    for chunk in _chunks(sorted(devices)):
        paths |= dict(session.exec(select(Device.id, Device.assigned_path).where(col(Device.id).in_(chunk))).all())
    return paths


def _chunks(items: list[_T]) -> Iterable[list[_T]]:
    return (items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE))
