"""Registers devices, assigns their asset paths and records ranges of lost items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import bindparam, func, insert, update
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.database import scopes
from cloud_hub.database.tables import Device, HighWater, LostRange, RemovedDevice
from cloud_hub.errors import HubError
from cloud_hub.security.core.roles import Scope
from shared.ids import DEVICE_ID

CURE = "Put it back first: tidegate-hub device restore ID, or POST /api/v1/removed-devices/ID/restore"


def get_device(session: Session, device_id: str) -> Device:
    """The device, or HubError 404."""
    row = session.get(Device, device_id)
    if row is None or not scopes.sees(session, [device_id]):
        raise unknown(session, device_id)
    return row


_KNOWN = select(Device.id).where(Device.id == bindparam("b_id"))


def exists(session: Session, device_id: str) -> bool:
    """Whether this device is known and within the session's scope."""
    known = session.connection().execute(_KNOWN, {"b_id": device_id}).scalar() is not None
    return known and scopes.sees(session, [device_id])


def require_device(session: Session, device_id: str) -> None:
    """HubError 404 unless the device is known."""
    if not exists(session, device_id):
        raise unknown(session, device_id)


def register(session: Session, device_id: str, now_us: int, *, actor: str, trace: str = "") -> bool:
    """Register a device before its first birth (a client that only uses twins has none); False if it was known.

    HubError 422 for an invalid id, 409 for a removed device.
    """
    if not DEVICE_ID.match(device_id):
        rule = "use 1 to 60 of a-z 0-9 _ - and begin with a letter or digit"
        raise HubError(422, "Invalid request", f"'{device_id[:80]}' is no device id: {rule}")
    if exists(session, device_id):
        return False
    if session.get(RemovedDevice, device_id) is not None:
        raise HubError(409, "Removed device", f"'{device_id}' was removed. {CURE}")
    session.add(Device(id=device_id))
    trail.add(session, now_us, actor, "device.registered", device_id, device=device_id, trace=trace)
    return True


def audit_registration(
    session: Session, device_id: str, path: str, now_us: int, *, actor: str, trace: str = ""
) -> None:
    """Audit a device that was created by incoming data, and assign it `path`."""
    row = session.get(Device, device_id)
    if row is not None and path:
        row.assigned_path = path
        session.add(row)
    trail.add(session, now_us, actor, "device.registered", device_id, device=device_id, trace=trace, path=path)


def unknown(session: Session, device_id: str) -> HubError:
    """404 for a device that is not known."""
    if scopes.session_scope(session) is None and session.get(RemovedDevice, device_id) is not None:
        return HubError(404, "Removed device", f"'{device_id[:80]}' was removed. {CURE}")
    cure = (
        "check the name; a device is known once its agent has connected or its Sparkplug node was born, "
        "or after PUT /api/v1/devices/ID"
    )
    return HubError(404, "No such device", f"'{device_id[:80]}' is not known here: {cure}")


def assign_asset_path(
    session: Session, device_id: str, path: str, now_us: int, *, within: Scope, actor: str, trace: str = ""
) -> Device:  # fmt: skip
    """Assign a device its asset path, which decides the scopes that see it; '' removes it.

    Raises HubError 404 for an unknown device, 422 for an invalid path, 403 for a path outside the caller's scope.
    """
    row = get_device(session, device_id)
    try:
        path = path and scopes.validate_path(path)
    except ValueError as error:
        raise HubError(422, "Invalid request", f"body.asset_path: {error}") from error
    if not scopes.covers(within, (path,)):
        raise HubError(403, "Not allowed", f"this token reaches only {', '.join(within or ())}")
    if path != row.assigned_path:
        trail.add(session, now_us, actor, "device.assigned", device_id, device=device_id, trace=trace,
                  before=row.assigned_path, path=path)  # fmt: skip
        row.assigned_path = path
        session.add(row)
    return row


def list_devices(session: Session) -> list[Device]:
    """All devices by id."""
    return list(session.exec(scopes.restrict(session, select(Device), col(Device.id)).order_by(Device.id)))


Lost = tuple[int, int, int, str]
"""A range of lost items: number of the stream's mark, first, last, reason."""

_LOST: Any = LostRange.__table__  # type: ignore[attr-defined]
_MARKS: Any = HighWater.__table__  # type: ignore[attr-defined]
_NEWEST = select(func.max(_LOST.c.first)).where(_LOST.c.source == bindparam("b_source")).scalar_subquery()
_EXTEND = update(_LOST).values(last=bindparam("b_last")).where(
    _LOST.c.source == bindparam("b_source"), _LOST.c.first == _NEWEST, _LOST.c.last == bindparam("b_before"),
    _LOST.c.reason == bindparam("b_reason"),
)  # fmt: skip
_ADD = insert(_LOST)


def record_lost_range(session: Session, ranges: Sequence[Lost]) -> None:
    """Store ranges of lost items, those of one stream in order. Adjacent ranges are merged."""
    connection = session.connection()
    new: list[dict[str, Any]] = []
    for source, first, last, reason in _merge(ranges):
        key = {"b_source": source, "b_before": first - 1, "b_last": last, "b_reason": reason}
        apart = any(
            row["source"] == source for row in new[-1:]
        )  # the previous range is new, so there is no row to extend
        if apart or not connection.execute(_EXTEND, key).rowcount:
            new.append({"source": source, "first": first, "last": last, "reason": reason})
    if new:
        connection.execute(_ADD, new)


def lost_ranges(
    session: Session, device: str, *, first_source: int, limit: int
) -> dict[int, tuple[list[tuple[int, int, str]], int]]:
    """For each stream from mark `first_source` on: the newest `limit` ranges and their number in all."""
    mine = select(_MARKS.c.id).where(_MARKS.c.device == device, _MARKS.c.id >= first_source)
    ranked = sqlalchemy.select(
        _LOST, func.row_number().over(partition_by=_LOST.c.source, order_by=_LOST.c.first.desc()).label("number"),
        func.count().over(partition_by=_LOST.c.source).label("total"),
    ).where(_LOST.c.source.in_(mine)).subquery()  # fmt: skip
    newest = sqlalchemy.select(ranked).where(ranked.c.number <= limit).order_by(ranked.c.source, ranked.c.first)
    by_source: dict[int, tuple[list[tuple[int, int, str]], int]] = {}
    for row in session.connection().execute(newest):
        by_source.setdefault(row.source, ([], row.total))[0].append((row.first, row.last, row.reason))
    return by_source


def _merge(ranges: Sequence[Lost]) -> list[Lost]:
    merged: list[Lost] = []
    for source, first, last, reason in sorted(ranges):
        if merged and merged[-1][0] == source and merged[-1][2] == first - 1 and merged[-1][3] == reason:
            merged[-1] = (source, merged[-1][1], last, reason)
        else:
            merged.append((source, first, last, reason))
    return merged
