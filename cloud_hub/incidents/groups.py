"""Groups of incidents: what a person works on. Lists them, merges and splits them, and keeps their notifications.

The members of a group have the same `page`, the id of its first incident, by which people were notified. One member
`leads`. What was notified moves with the members: a merged incident is not notified anew, a split one is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, distinct, func, or_, select, update
from sqlmodel import Session, col
from sqlmodel import select as select_rows

from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database import scopes
from cloud_hub.database.tables import Device, Incident, Notification
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents

_INCIDENTS: Any = Incident.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
BATCH_SIZE = 500
"""Ids of one query."""
MAX_MEMBERS = 10_000
"""Members of a group that a person makes."""
MAX_NAMED = 100
"""Incidents that one merge or split may name."""
MERGED = "merged into"
"""Why a notification was closed, with the page that it went on in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSummary:
    """A group in numbers; `state` is open, acknowledged or resolved, of those members that the session sees."""

    page: str
    members: int
    unresolved: int
    devices: int
    state: str


# -- reading -----------------------------------------------------------------------------------------


def list_leads(session: Session, limit: int) -> list[Incident]:
    """The newest groups by their leading incident; by another member where the session does not see the leading one."""
    rows = select_rows(Incident).where(col(Incident.leads).is_(True))
    scope = scopes.session_scope(session)
    if scope is not None:
        mine = select(_DEVICES.c.id).where(scopes.scope_condition(scope))
        seen = select(_INCIDENTS.c.page).where(_INCIDENTS.c.leads.is_(True), _INCIDENTS.c.device.in_(mine))
        first = select(func.min(_INCIDENTS.c.id)).where(_INCIDENTS.c.device.in_(mine), _INCIDENTS.c.page.not_in(seen))
        first = first.group_by(_INCIDENTS.c.page)
        rows = scopes.restrict(session, select_rows(Incident), col(Incident.device))
        rows = rows.where(or_(col(Incident.leads).is_(True), col(Incident.id).in_(first)))
    return list(session.exec(rows.order_by(col(Incident.id).desc()).limit(limit)))


def summaries(session: Session, pages: Collection[str]) -> dict[str, GroupSummary]:
    """The groups of these pages in numbers."""
    mine = _INCIDENTS.c
    unresolved = func.sum(case((mine.state != "resolved", 1), else_=0))
    new = func.sum(case((mine.state == "open", 1), else_=0))
    columns = [mine.page, func.count(), unresolved, func.count(distinct(mine.device)), new]
    found: dict[str, GroupSummary] = {}
    for some in _chunks(sorted(set(pages))):
        query = scopes.restrict(session, select(*columns).where(mine.page.in_(some)), mine.device)
        for page, members, left, devices, opened in session.connection().execute(query.group_by(mine.page)):
            state = "open" if opened else "acknowledged" if left else "resolved"
            found[page] = GroupSummary(page=page, members=members, unresolved=left, devices=devices, state=state)
    return found


def members(session: Session, page: str, after: str = "", limit: int = 100) -> list[Incident]:
    """The members of a group that the session sees, by id (the oldest first), after one of them."""
    query = select_rows(Incident).where(Incident.page == page, Incident.id > after).order_by(Incident.id).limit(limit)
    return list(session.exec(scopes.restrict(session, query, col(Incident.device))))


def lead(session: Session, page: str) -> Incident | None:
    """The incident that leads a group."""
    query = select_rows(Incident).where(Incident.page == page, col(Incident.leads).is_(True))
    return session.exec(query.order_by(Incident.id).limit(1)).first()


# -- changing by a person ----------------------------------------------------------------------------


def merge(
    session: Session, incident_id: str, others: Sequence[str], now_us: int, *, actor: str, reason: str
) -> Incident:  # fmt: skip
    """Merge the groups of `others` into that of `incident_id`; returns its leading incident.

    Needs `write()` without devices. HubError 403, 404, 409 or 422.
    """
    into = incidents.get(session, incident_id)
    _require(reason, others)
    if not others:
        raise HubError(422, "Invalid request", "name the incidents to merge")
    pages = sorted({incidents.get(session, other).page for other in others} - {into.page})
    if not pages:
        raise HubError(409, "Nothing to merge", "they are one group already")
    counted = summaries(session, [into.page, *pages])
    if counted[into.page].state == "resolved" and any(counted[page].unresolved for page in pages):
        raise HubError(409, "The group is resolved", "merge it into the open one: nobody looks at a resolved group")
    if sum(group.members for group in counted.values()) > MAX_MEMBERS:
        raise HubError(409, "The group would be too large", f"a group has at most {MAX_MEMBERS} members")
    _require_all(session, [into.page, *pages])
    for page in pages:
        merge_pages(session, page, into.page, f"merged by {actor}: {reason}", actor)
        trail.add(session, now_us, actor, "incident.merged", page, device=into.device, trace=into.traceparent,
                  into=into.page, members=counted[page].members, reason=reason)  # fmt: skip
    return lead(session, into.page) or into


def split(
    session: Session, incident_id: str, others: Sequence[str], now_us: int, *, actor: str, reason: str
) -> Incident:  # fmt: skip
    """Take incidents out of their group, into one of their own; returns its leading incident.

    They are `others`, members of the group of `incident_id`, or itself if none is named. The hub puts none back.
    Needs `write()` without devices. HubError 403, 404, 409 or 422.
    """
    row = incidents.get(session, incident_id)
    _require(reason, others)
    rows = sorted((incidents.get(session, one) for one in {*others} or {incident_id}), key=lambda one: one.id)
    if {one.page for one in rows} != {row.page}:
        raise HubError(409, "Not of this group", "all must be members of the same group")
    _require_all(session, [row.page])
    if summaries(session, [row.page])[row.page].members == len(rows):
        raise HubError(409, "Nothing to split", "these are all members of the group")
    before = row.page
    page = take_out(session, rows)
    for one in rows:
        one.placed_by, one.joined_because = actor, f"split off by {actor}: {reason}"
        trail.add(session, now_us, actor, "incident.split", one.id, device=one.device, trace=one.traceparent,
                  before=before, page=page, reason=reason)  # fmt: skip
    _forget_notified(session, page)
    return lead(session, page) or rows[0]


def _require(reason: str, others: Sequence[str]) -> None:
    if not reason.strip():
        raise HubError(422, "Invalid request", "give a reason: who looks at the group later wants to know why")
    if len(others) > MAX_NAMED:
        raise HubError(422, "Invalid request", f"name at most {MAX_NAMED} incidents")


def _require_all(session: Session, pages: Collection[str]) -> None:
    """HubError 403 unless the session sees every member of these groups."""
    query = select(func.count()).where(_INCIDENTS.c.page.in_(pages))
    seen = scopes.restrict(session, query, _INCIDENTS.c.device)
    connection = session.connection()
    if connection.execute(query).scalar() != connection.execute(seen).scalar():
        raise HubError(403, "Not allowed", "the group has incidents of devices that this token does not reach")


# -- changing ----------------------------------------------------------------------------------------


def take_out(session: Session, rows: Sequence[Incident]) -> str:
    """Put some members of one group, not all, into a group of their own; returns its page. Nothing is notified by it.

    The rest keeps what was notified, under the id of another member if its own is taken.
    """
    rows = sorted(rows, key=lambda row: row.id)
    taken, before, page = {row.id for row in rows}, rows[0].page, rows[0].id
    rest = before
    session.flush()
    if before in taken:
        rest = _rekey(session, before, taken)
    leads = next((row.id for row in rows if row.leads), page)
    for row in rows:
        row.page, row.leads = page, row.id == leads
        session.add(row)
    session.flush()
    _ensure_lead(session, rest)
    return page


def merge_pages(session: Session, source: str, target: str, because: str, placed_by: str = "") -> None:
    """Move all members of one group to another, whose lead stays.

    If no person does it, those that had joined the group keep their own reason.
    """
    session.flush()
    reason = _INCIDENTS.c.joined_because
    kept: Any = case((reason == "", because), else_=reason)
    values: dict[str, Any] = {"page": target, "leads": False, "joined_because": kept}
    if placed_by:
        values |= {"joined_because": because, "placed_by": placed_by}
    session.connection().execute(update(_INCIDENTS).where(_INCIDENTS.c.page == source).values(**values))
    session.expire_all()
    _carry_notifications(session, source, target, whole=True)


def move(session: Session, row: Incident, target: str, because: str) -> None:
    """Move one incident to another group, with what was notified about it."""
    source = row.page
    if source == target:
        row.joined_because = because
        session.add(row)
        return
    session.flush()
    others = select(_INCIDENTS.c.id).where(_INCIDENTS.c.page == source, _INCIDENTS.c.id != row.id).limit(1)
    alone = session.connection().execute(others).first() is None
    if source == row.id and not alone:
        source = _rekey(session, source, {row.id})
    row.page, row.leads, row.joined_because = target, False, because
    session.add(row)
    session.flush()
    _carry_notifications(session, source, target, whole=alone)
    if not alone:
        _ensure_lead(session, source)


def has_placed(session: Session, page: str) -> bool:
    """Whether a person merged or split a member of this group."""
    query = select(_INCIDENTS.c.id).where(_INCIDENTS.c.page == page, _INCIDENTS.c.placed_by != "").limit(1)
    return session.connection().execute(query).first() is not None


def set_lead(session: Session, row: Incident) -> None:
    """Let this incident lead its group."""
    session.flush()
    mine = _INCIDENTS.c
    others = (mine.page == row.page, mine.leads.is_(True), mine.id != row.id)
    session.connection().execute(update(_INCIDENTS).where(*others).values(leads=False))
    session.expire_all()
    row.leads = True
    if row.diagnosis and row.diagnosis.get("lead"):  # of the incident that led before
        row.diagnosed_us = None
    session.add(row)


def _rekey(session: Session, page: str, without: set[str]) -> str:
    """Give a group, without some of its members, the id of another member; returns it."""
    mine = _INCIDENTS.c
    rest = (mine.page == page, mine.id.not_in(without))
    new = str(session.connection().execute(select(func.min(mine.id)).where(*rest)).scalar_one())
    session.connection().execute(update(_INCIDENTS).where(*rest).values(page=new))
    session.expire_all()
    _forget_notified(session, new)
    _carry_notifications(session, page, new, whole=True)
    return new


def _ensure_lead(session: Session, page: str) -> None:
    """Let the oldest unresolved member lead a group that has lost its lead, else the oldest."""
    mine = _INCIDENTS.c
    order = (mine.leads.desc(), (mine.state == "resolved").asc(), mine.id)
    first = session.connection().execute(select(mine.id).where(mine.page == page).order_by(*order).limit(1)).scalar()
    if first is not None:
        session.connection().execute(update(_INCIDENTS).where(mine.id == first).values(leads=True))
        session.expire_all()


# -- what was notified -------------------------------------------------------------------------------


def _carry_notifications(session: Session, source: str, target: str, *, whole: bool) -> None:
    """Let the target know what was notified of the source, on each channel; `whole`: the source has no member left."""
    query = select_rows(Notification).where(col(Notification.page).in_([source, target]))
    rows = {(row.channel, row.page): row for row in session.exec(query)}
    for (channel, page), row in rows.items():
        if page != source:
            continue
        other = rows.get((channel, target))
        if other is not None:
            _add_notified(other, row)
        elif whole:
            row.page = target
        elif row.messages:
            session.add(_copy(row, target))
        if other is not None and whole:
            row.state, row.due_us, row.error = "closed", None, f"{MERGED} {target}"
        session.add(row)
    session.flush()


def _add_notified(row: Notification, other: Notification) -> None:
    """Add what was notified of another page."""
    row.notified = {key: max(row.notified.get(key, -1), rank) for key, rank in other.notified.items()} | {
        key: rank for key, rank in row.notified.items() if key not in other.notified
    }
    if other.sent_status == "open" and row.sent_status == "resolved":  # the group is open, and that was said
        row.sent_status, row.sent_us, row.sent_priority = "open", other.sent_us, other.sent_priority
        row.state, row.due_us = "notified", None


def _copy(row: Notification, page: str) -> Notification:
    return Notification(
        id=new_id(), channel=row.channel, page=page, device=row.device, state="notified", due_status="open",
        sent_status=row.sent_status, sent_priority=row.sent_priority, since_us=row.since_us, sent_us=row.sent_us,
        notified=dict(row.notified), messages=row.messages, times_resolved=row.times_resolved,
    )  # fmt: skip


def _forget_notified(session: Session, page: str) -> None:
    """A page that was merged before begins anew: its members are notified."""
    for row in session.exec(select_rows(Notification).where(Notification.page == page)):
        session.delete(row)
    session.flush()


def is_merged(row: Notification) -> bool:
    """Whether the page of this notification was merged into another."""
    return row.state == "closed" and row.error.startswith(f"{MERGED} ")


def carry_late(session: Session, row: Notification, notified: dict[str, Any]) -> bool:
    """Record what was sent of a page that was merged while it was being sent; False if it was not merged."""
    if not is_merged(row):
        return False
    target = row.error.removeprefix(f"{MERGED} ")
    query = select_rows(Notification).where(Notification.channel == row.channel, Notification.page == target)
    other = session.exec(query).first()
    if other is not None:
        other.notified = other.notified | {
            key: max(rank, other.notified.get(key, -1)) for key, rank in notified.items()
        }
        session.add(other)
    return True


def _chunks(items: list[str]) -> Iterable[list[str]]:
    return (items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE))
