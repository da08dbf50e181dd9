"""Counts and lists of the whole fleet for the pages, with few queries, within the session's scope. Reads only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from sqlalchemy import case, func, select
from sqlmodel import Session, col
from sqlmodel import select as select_rows

from cloud_hub import query
from cloud_hub.alarms import service as alarm_service
from cloud_hub.database import scopes
from cloud_hub.database.tables import Action, AlarmRow, Device, Incident
from shared.protocol.messages import Life, Priority

PRIORITIES: tuple[str, ...] = tuple(reversed(get_args(Priority)))
"""The most urgent first."""
STANDING: tuple[Life, ...] = ("unacknowledged", "acknowledged")

_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetHealth:
    """Devices by state: `never` were registered and have not connected yet. `conflicts`: two agents with one id."""

    online: int = 0
    offline: int = 0
    never: int = 0
    conflicts: int = 0

    @property
    def total(self) -> int:
        """All devices."""
        return self.online + self.offline + self.never


@dataclass(slots=True, kw_only=True)
class DeviceColumns:
    """Devices as columns of equal length. `state` is online, offline or never; `priority` the most urgent alarm's."""

    id: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    profile: list[str] = field(default_factory=list)
    version: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    seen_us: list[int] = field(default_factory=list)
    alarms: list[int] = field(default_factory=list)
    priority: list[str] = field(default_factory=list)
    total: int = 0
    left_out: int = 0


def _state() -> Any:
    table = _DEVICES.c
    return case((table.state == "online", "online"), (table.born_us == 0, "never"), else_="offline")


def health(session: Session) -> FleetHealth:
    """Devices by state."""
    counted = select(
        _state().label("device_state"), func.count(), func.sum(case((_DEVICES.c.conflict != "", 1), else_=0))
    )
    rows = session.connection().execute(scopes.restrict(session, counted, _DEVICES.c.id).group_by("device_state")).all()
    numbers = {state: count for state, count, _ in rows}
    return FleetHealth(**numbers, conflicts=sum(int(conflicts or 0) for *_, conflicts in rows))


def lost(session: Session, limit: int) -> list[Device]:
    """The devices that went offline last."""
    rows = select_rows(Device).where(Device.state != "online", col(Device.born_us) > 0)
    rows = rows.order_by(col(Device.seen_us).desc(), Device.id).limit(limit)
    return list(session.exec(scopes.restrict(session, rows, col(Device.id))))


def standing_counts(session: Session) -> dict[str, tuple[int, int]]:
    """By priority: (raised alarms that are not suppressed, those of them that nobody has acknowledged)."""
    unseen = func.sum(case((_ALARMS.c.acked_us.is_(None), 1), else_=0))
    counted = select(_ALARMS.c.priority, func.count(), unseen).where(*_standing())
    rows = session.connection().execute(scopes.restrict(session, counted, _ALARMS.c.device).group_by("priority"))
    return {priority: (count, int(new or 0)) for priority, count, new in rows}


def standing_alarms(session: Session, limit: int, *, device: str = "", priority: str = "") -> list[AlarmRow]:
    """Raised alarms that are not suppressed: the most urgent first, then those not acknowledged, then the newest."""
    rows: list[AlarmRow] = []
    for urgency in [priority] if priority else PRIORITIES:
        for life in STANDING:
            left = limit - len(rows)
            if left > 0:
                rows += alarm_service.list_alarms(session, life=life, priority=urgency, device=device, limit=left)
    return rows


def open_groups(session: Session) -> tuple[int, int]:
    """(groups of incidents with an unresolved member, those in which nobody has acknowledged one)."""
    mine = select(func.count(func.distinct(Incident.page))).where(col(Incident.state) != "resolved")
    new = select(func.count(func.distinct(Incident.page))).where(col(Incident.state) == "open")
    counted = [scopes.restrict(session, one, col(Incident.device)) for one in (mine, new)]
    everything, unseen = (int(session.connection().execute(one).scalar_one()) for one in counted)
    return everything, unseen


def proposed_actions(session: Session) -> int:
    """Actions that wait for a person."""
    waiting = select(func.count()).where(col(Action.state) == "proposed")
    return int(session.connection().execute(scopes.restrict(session, waiting, col(Action.device))).scalar_one())


def _standing() -> tuple[Any, ...]:
    return _ALARMS.c.state == "raised", _ALARMS.c.suppressed == ""


def columns(session: Session, where: str, text: str, limit: int) -> DeviceColumns:
    """Devices that meet a condition and have all words of a text in id, path, profile, version or tags.

    HubError 400 for a condition that cannot be read.
    """
    table = _DEVICES.c
    fields = (table.id, _state(), table.assigned_path, table.profile, table.version, table.tags, table.seen_us)
    wanted = select(*fields).order_by(table.id)
    if where:
        wanted = wanted.where(table.id.in_(query.matching(session, where)))
    alarms = _alarms_by_device(session)
    words, found = text.casefold().split(), DeviceColumns()
    for row in session.connection().execute(scopes.restrict(session, wanted, table.id)):
        device, state, path, profile, version, tags, seen_us = row
        written = _tags(tags)
        if words and not _has(words, f"{device} {path} {profile} {version} {written}"):
            continue
        found.total += 1
        if len(found.id) < limit:
            count, rank = alarms.get(device, (0, -1))
            _add(found, device, state, path, profile, version, written, seen_us, count, rank)
    found.left_out = found.total - len(found.id)
    return found


def _has(words: list[str], text: str) -> bool:
    folded = text.casefold()
    return all(word in folded for word in words)


def _add(
    found: DeviceColumns, device: str, state: str, path: str, profile: str, version: str, tags: str, seen_us: int,
    alarms: int, rank: int,
) -> None:  # fmt: skip
    found.id.append(device)
    found.state.append(state)
    found.path.append(path)
    found.profile.append(profile)
    found.version.append(version)
    found.tags.append(tags)
    found.seen_us.append(seen_us)
    found.alarms.append(alarms)
    found.priority.append(get_args(Priority)[rank] if rank >= 0 else "")


def _tags(tags: dict[str, Any]) -> str:
    """Tags as `key=value`, in order; objects and lists by their key alone."""
    return " ".join(
        f"{key}={value}" if isinstance(value, (str, int, float)) else key for key, value in sorted(tags.items())
    )[:300]


def _alarms_by_device(session: Session) -> dict[str, tuple[int, int]]:
    """(standing alarms, rank of the most urgent) of each device that has some."""
    ranks = {priority: rank for rank, priority in enumerate(get_args(Priority))}
    rank = func.max(case(ranks, value=_ALARMS.c.priority, else_=0))
    counted = select(_ALARMS.c.device, func.count(), rank).where(*_standing()).group_by(_ALARMS.c.device)
    rows = session.connection().execute(scopes.restrict(session, counted, _ALARMS.c.device))
    return {device: (count, int(most)) for device, count, most in rows}
