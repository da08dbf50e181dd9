"""The newest sample of each series: of a device, or of a fleet page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlmodel import Session, col, select

from cloud_hub import query
from cloud_hub.database import scopes
from cloud_hub.database.tables import Device
from cloud_hub.telemetry.rollups.aggregate import metrics
from shared.times import DAY_US

METRICS = 10_000
"""Metrics of one device that are looked at."""

_NEWEST = text(
    "SELECT t_us, value, text, quality FROM telemetry WHERE device = :device AND metric = :metric AND t_us <= :until "
    "ORDER BY t_us DESC, source DESC, seq DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastValue:
    """A series' newest sample, by the time that it bears; None is the value of one that had none."""

    device: str
    metric: str
    t_us: int
    value: float | str | None
    quality: str


def device_last_values(session: Session, device: str, only: Sequence[str] | None, now_us: int) -> list[LastValue]:
    """The newest of each metric of a device, or of some of them, in order. A sample from more than a day ahead is of a
    clock that is wrong, and does not hide the others."""
    found = []
    for metric in (metrics(session, device) if only is None else only)[:METRICS]:
        asked = {"device": device, "metric": metric, "until": now_us + DAY_US}
        row = session.connection().execute(_NEWEST, asked).first()
        if row is not None:
            value = row.text if row.text is not None else row.value
            found.append(LastValue(device=device, metric=metric, t_us=row.t_us, value=value, quality=row.quality))
    return found


def fleet_last_values(
    session: Session, now_us: int, *, metric: str | None, where: str | None, limit: int, after: str
) -> tuple[list[LastValue], str]:
    """(last values of whole devices, in order, until there are `limit`; the device to go on after, '' at the end).

    Raises HubError for a condition that cannot be read.
    """
    found: list[LastValue] = []
    devices = devices_of(session, where, after)
    for number, device in enumerate(devices, 1):
        found += device_last_values(session, device, None if metric is None else [metric], now_us)
        if len(found) >= limit and number < len(devices):
            return found, device
    return found, ""


def devices_of(session: Session, where: str | None, after: str = "") -> list[str]:
    """Ids of the devices that the session sees and that meet a condition, in order."""
    asked = scopes.restrict(session, select(Device.id).where(col(Device.id) > after), col(Device.id))
    if where is not None:
        asked = asked.where(col(Device.id).in_(query.matching(session, where)))
    return list(session.connection().execute(asked.order_by(col(Device.id))).scalars())
