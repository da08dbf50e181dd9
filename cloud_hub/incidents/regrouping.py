"""Applies the topology to open incidents: what a failed device explains joins its incident, which leads.

A worker does it, not the ingest: it changes incidents of other devices, and an explanation may arrive after what it
explains. Each incident is looked at once, and again when a device that it depends on fails.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import or_, select, update
from sqlmodel import Session, col
from sqlmodel import select as select_rows

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, Incident
from cloud_hub.devices import dependencies
from cloud_hub.incidents import groups
from cloud_hub.incidents.core import topology
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import NOTHING, WorkResult

_INCIDENTS: Any = Incident.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
BATCH_SIZE = 100
"""Incidents of one run."""
MAX_DOWNSTREAM = 10_000
"""The number of devices that one failed device may explain."""
IDS = 500
AGAIN = 0
"""`grouped_us` of an incident that is looked at again, because what may explain it is new. Only a first look has others
looked at again: so a circle of devices comes to an end.
"""


def run_once(db: Database, now_us: int) -> WorkResult:
    """Look at the incidents that are due, the oldest first, each in a transaction of its own."""
    items = WorkItems(db, "grouping", now_us)
    with db.read() as session:
        waiting = or_(_INCIDENTS.c.grouped_us.is_(None), _INCIDENTS.c.grouped_us == AGAIN)
        query = select(_INCIDENTS.c.id).where(waiting, items.ready("incident", Incident.id))
        due = list(session.connection().execute(query.order_by(_INCIDENTS.c.id).limit(BATCH_SIZE)).scalars())
        topologic = bool(due) and dependencies.any_edges(session)
    if not due:
        return NOTHING
    if not topologic:
        items.batch("incident", due, partial(_mark, db, now_us))
    for incident_id in due if topologic else ():
        items.run("incident", incident_id, partial(apply, db, incident_id, now_us))
    return items.result(again=len(due) == BATCH_SIZE or topologic)


def _mark(db: Database, now_us: int, ids: Any) -> None:
    with db.write() as session:
        session.connection().execute(update(_INCIDENTS).where(_INCIDENTS.c.id.in_(list(ids))).values(grouped_us=now_us))


def apply(db: Database, incident_id: str, now_us: int) -> None:
    """Look at one incident, in a transaction of its own."""
    with db.write() as session:
        row = session.get(Incident, incident_id)
        if row is not None:
            regroup(session, row, now_us)


def regroup(session: Session, row: Incident, now_us: int) -> None:
    """Let an incident join the one that explains it, and have those looked at that it may explain."""
    first = row.grouped_us is None
    row.grouped_us = now_us
    session.add(row)
    if row.state == "resolved" or not row.silent:
        return
    session.flush()
    if not row.placed_by:
        _join_explaining(session, row, now_us)
    if first:
        _revisit_downstream(session, row)


def explaining_device(session: Session, device: str) -> tuple[str, str] | None:
    """The failed device that explains the silence of this one, and how it failed (silent, offline)."""
    graph = topology.walk(device, partial(dependencies.upstream, session))
    above = sorted(topology.reachable(device, graph) - {device})
    if not above:
        return None
    silent, offline = _failed(session, above)
    for failed, how in ((silent, "silent"), (silent | offline, "offline")):  # an incident explains better than a state
        if (root := topology.explaining(device, graph, failed)) is not None:
            return root, how
    return None


def _failed(session: Session, devices: list[str]) -> tuple[set[str], set[str]]:
    """Which of these devices have an incident that they are silent, and which are offline."""
    mine, connection = _INCIDENTS.c, session.connection()
    silent = select(mine.device).where(
        mine.device.in_(devices), mine.silent.is_(True), mine.state != "resolved", mine.placed_by == ""
    )
    offline = select(_DEVICES.c.id).where(
        _DEVICES.c.id.in_(devices), _DEVICES.c.state == "offline", _DEVICES.c.born_us > 0
    )
    return set(connection.execute(silent).scalars()), set(connection.execute(offline).scalars())


def _join_explaining(session: Session, row: Incident, now_us: int) -> None:
    explained = explaining_device(session, row.device)
    if explained is None:
        return
    device, how = explained
    cause = _silent_incident(session, [device])
    because = f"depends on {device}, which is {how}"
    target = cause or _silent_incident(session, _downstream(session, device))
    if target is None or target.id == row.id:
        return
    before = row.page
    if cause is not None and row.page < cause.page:
        if groups.has_placed(session, cause.page):
            groups.move(session, cause, row.page, "explains what depends on it")
        else:
            groups.merge_pages(session, cause.page, row.page, "explains what depends on it")
        row.joined_because = because
    else:
        groups.move(session, row, target.page, because)
    if cause is not None:
        groups.set_lead(session, cause)
    session.add(row)
    trail.add(session, now_us, "hub", "incident.explained", row.id, device=row.device, trace=row.traceparent,
              before=before, page=row.page, because=because)  # fmt: skip


def _silent_incident(session: Session, devices: list[str]) -> Incident | None:
    """The oldest unresolved incident that says that one of these devices is silent."""
    found: list[Incident] = []
    for start in range(0, len(devices), IDS):
        query = select_rows(Incident).where(
            col(Incident.device).in_(devices[start : start + IDS]), col(Incident.silent).is_(True),
            Incident.state != "resolved", Incident.placed_by == "",
        )  # fmt: skip
        found += session.exec(query.order_by(Incident.id).limit(1))
    return min(found, key=lambda row: row.id, default=None)


def _downstream(session: Session, device: str) -> list[str]:
    """The devices that depend on this one, directly or through others, without itself."""
    neighbours = partial(dependencies.downstream, session, most=MAX_DOWNSTREAM)
    return sorted(topology.walk(device, neighbours, most=MAX_DOWNSTREAM).keys() - {device})


def _revisit_downstream(session: Session, row: Incident) -> None:
    """Have the silent incidents looked at again that are below this device."""
    mine = _INCIDENTS.c
    below = _downstream(session, row.device)
    for start in range(0, len(below), IDS):
        waiting = (
            mine.device.in_(below[start : start + IDS]), mine.silent.is_(True), mine.state != "resolved",
            mine.placed_by == "", mine.grouped_us.is_not(None),
        )  # fmt: skip
        session.connection().execute(update(_INCIDENTS).where(*waiting).values(grouped_us=AGAIN))
