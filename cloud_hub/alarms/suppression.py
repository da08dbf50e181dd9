"""Suppresses alarms: shelving, suppression by design, and out of service (ISA-18.2).

A suppressed alarm is still raised and recorded, but it opens no incident and notifies nobody. The hub decides this, not
the device: it also works for a device that is offline, does not depend on the device's clock, and ends by itself.
Alarms that are still raised when a suppression ends open an incident then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import and_, or_
from sqlmodel import Session, col, select

from cloud_hub.alarms.core.state import SuppressionMethod
from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database import scopes
from cloud_hub.database.tables import AlarmRow, Device, Suppression
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from shared.durations import DAY_US
from shared.ids import metric_name

SHELVED_S = 7 * 86_400.0
LONGEST_US: dict[SuppressionMethod, int | None] = {
    "shelved": 7 * DAY_US,
    "suppressed": 90 * DAY_US,
    "out-of-service": None,
}
"""The maximum duration by method; out of service has none."""


def create(session: Session, wanted: Suppression, now_us: int, trace: str = "") -> Suppression:
    """Start a suppression; raised alarms that it covers are suppressed too. Raises HubError 404, 403 or 422.

    Reads method, device or path, metric, reason, actor, from_us and until_us of `wanted`.
    """
    _validate(session, wanted, now_us)
    wanted.id, wanted.created_us, wanted.from_us = new_id(), now_us, max(wanted.from_us, now_us)
    session.add(wanted)
    trail.add(session, now_us, wanted.actor, "alarms.suppressed", wanted.metric or wanted.path or "all",
              device=wanted.device, trace=trace, suppression=wanted.id, method=wanted.method, path=wanted.path,
              reason=wanted.reason, from_us=wanted.from_us, until_us=wanted.until_us)  # fmt: skip
    session.flush()
    if wanted.from_us <= now_us:
        for row in session.exec(_raised_under(wanted)).all():
            row.suppressed = wanted.method
            session.add(row)
    return wanted


def _validate(session: Session, wanted: Suppression, now_us: int) -> None:
    method: SuppressionMethod = wanted.method  # type: ignore[assignment]
    try:
        if bool(wanted.device) == bool(wanted.path):
            raise ValueError("give a device or an asset path, and just one of them")
        if wanted.metric:
            metric_name(wanted.metric)
        if wanted.path:
            scopes.validate_path(wanted.path)
        if not wanted.reason.strip():
            raise ValueError("give a reason: who finds it suppressed wants to know why")
        longest = LONGEST_US[method]
        if longest is not None and wanted.until_us is None:
            raise ValueError(f"what is {method} must end: give until_us")
        start = max(wanted.from_us, now_us)
        if wanted.until_us is not None and wanted.until_us <= start:
            raise ValueError("until_us must be later than now and than from_us")
        if longest is not None and wanted.until_us is not None and wanted.until_us - start > longest:
            raise ValueError(
                f"{method} lasts at most {longest // DAY_US} days; take it out of service if it must be longer"
            )
    except ValueError as error:
        raise HubError(422, "Invalid request", f"body: {error}") from error
    if wanted.device:
        device_registry.require_device(session, wanted.device)
    elif not scopes.covers(scopes.session_scope(session), [wanted.path]):
        raise HubError(403, "Not allowed", f"this token reaches only {', '.join(scopes.session_scope(session) or ())}")


def end(session: Session, row: Suppression, now_us: int, *, actor: str, trace: str = "") -> None:
    """End a suppression early; `suppression_changes` returns its raised alarms to service."""
    if row.ended_us is None and (row.until_us is None or row.until_us > now_us):
        row.ended_us, row.ended_by = now_us, actor
        session.add(row)
        trail.add(session, now_us, actor, "alarms.unsuppressed", row.metric or row.path or "all", device=row.device,
                  trace=trace, suppression=row.id, method=row.method)  # fmt: skip


def end_all(session: Session, device: str, now_us: int, *, actor: str) -> None:
    """End all suppressions of this device; those of asset paths stay."""
    for row in session.exec(select(Suppression).where(Suppression.device == device, _not_ended(now_us))).all():
        end(session, row, now_us, actor=actor)


def unshelve(session: Session, alarm: AlarmRow, now_us: int, *, actor: str, trace: str = "") -> bool:
    """End the shelving of an alarm's metric; False if it is not shelved."""
    same_series = and_(
        col(Suppression.device) == alarm.device, col(Suppression.metric) == alarm.metric, _not_ended(now_us)
    )
    rows = session.exec(select(Suppression).where(same_series, Suppression.method == "shelved")).all()
    for row in rows:
        end(session, row, now_us, actor=actor, trace=trace)
    return bool(rows)


def get(session: Session, number: str) -> Suppression:
    """The suppression; raises HubError 404."""
    row = session.get(Suppression, number)
    if row is None or not _seen(session, row):
        raise HubError(404, "No such suppression", f"'{number[:80]}' is not known")
    return row


def _seen(session: Session, row: Suppression) -> bool:
    return (
        scopes.sees(session, [row.device]) if row.device else scopes.covers(scopes.session_scope(session), [row.path])
    )


def list_suppressions(session: Session, now_us: int, *, active: bool, limit: int) -> list[Suppression]:
    """The newest suppressions first; `active`: only those that have not ended."""
    query = select(Suppression).order_by(col(Suppression.id).desc())
    if active:
        query = query.where(_not_ended(now_us))
    seen = (row for row in session.exec(query) if _seen(session, row))
    return [row for row, _ in zip(seen, range(limit), strict=False)]


def _not_ended(t_us: int) -> Any:
    return and_(col(Suppression.ended_us).is_(None), _until_after(t_us))


def _until_after(t_us: int) -> Any:
    return or_(col(Suppression.until_us).is_(None), col(Suppression.until_us) > t_us)


# -- which alarms ----------------------------------------------------------------------------------


def suppression_lookup(
    session: Session, device: str, from_us: int, until_us: int
) -> Callable[[str, Sequence[int]], SuppressionMethod | None]:  # fmt: skip
    """Return a function that tells how an alarm is suppressed, from its metric and times; None if it is not.

    Loads the suppressions of the device that are active between `from_us` and `until_us`. An alarm is suppressed if any
    of its times is covered; of several suppressions, the one that ends last counts.
    """
    active = and_(col(Suppression.from_us) <= until_us, _until_after(from_us))
    here = or_(col(Suppression.device) == device, col(Suppression.path) != "")
    rows = session.exec(select(Suppression).where(active, here)).all()
    path = _path(session, device) if rows else ""

    def covers(metric: str, times_us: Sequence[int]) -> SuppressionMethod | None:
        active = [row for row in rows if any(_active_at(row, t_us) for t_us in times_us)]
        return _longest(active, device, metric, path)

    return covers


def _active_at(row: Suppression, t_us: int) -> bool:
    until_us = min(end for end in (row.until_us, row.ended_us, 1 << 62) if end is not None)
    return row.from_us <= t_us < until_us


def _longest(active: Sequence[Suppression], device: str, metric: str, path: str) -> SuppressionMethod | None:
    matching = [
        row
        for row in active
        if row.metric in {"", metric}
        and (row.device == device if row.device else bool(path) and scopes.is_below(path, row.path))
    ]
    longest = max(matching, key=lambda row: row.until_us or 1 << 62, default=None)
    return longest and longest.method  # type: ignore[return-value]


def _path(session: Session, device: str) -> str:
    return session.exec(select(Device.assigned_path).where(Device.id == device)).first() or ""


def suppression_changes(session: Session, now_us: int) -> list[tuple[AlarmRow, str]]:
    """Raised alarms whose suppression has started or ended, each with its method now; '' for none."""
    active = session.exec(select(Suppression).where(col(Suppression.from_us) <= now_us, _not_ended(now_us))).all()
    query = select(AlarmRow, Device.assigned_path).join(Device, col(Device.id) == AlarmRow.device, isouter=True)
    suppressed = query.where(col(AlarmRow.suppressed).in_(list(LONGEST_US)), AlarmRow.state == "raised")
    found = [
        (row, _longest(active, row.device, row.metric, path or "") or "") for row, path in session.exec(suppressed)
    ]
    found = [(row, method) for row, method in found if row.suppressed != method]
    return found + [(row, one.method) for one in active for row in session.exec(_raised_under(one))]


def _raised_under(one: Suppression) -> Any:
    query = select(AlarmRow).where(AlarmRow.suppressed == "", AlarmRow.state == "raised")
    if one.metric:
        query = query.where(AlarmRow.metric == one.metric)
    if one.device:
        return query.where(AlarmRow.device == one.device)
    below: Any = select(Device.id).where(scopes.scope_condition([one.path]))
    return query.where(col(AlarmRow.device).in_(below))
