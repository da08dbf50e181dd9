"""Reads the newest sample of each series of a device, or of a fleet in pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlmodel import Session, col, select

from cloud_hub import query
from cloud_hub.database import scopes
from cloud_hub.database.tables import Device
from cloud_hub.telemetry.rollups.aggregate import metrics
from shared.durations import DAY_US

METRICS = 10_000
"""Maximum metrics of one device that are read."""

_NEWEST = text(
    "SELECT t_us, value, text, quality FROM telemetry WHERE device = :device AND metric = :metric AND t_us <= :until "
    "ORDER BY t_us DESC, source DESC, seq DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastValue:
    """The newest sample of a series, by its own timestamp; the value may be None."""

    device: str
    metric: str
    t_us: int
    value: float | str | None
    quality: str


def device_last_values(session: Session, device: str, only: Sequence[str] | None, now_us: int) -> list[LastValue]:
    """The newest sample of each metric of a device, or of some of them, in order. Samples more than a day in the
    future come from a wrong clock and are ignored."""
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
    """(last values of complete devices, in order, until there are `limit`; the id for the next page, or '').

    Raises HubError for an invalid condition.
    """
    found: list[LastValue] = []
    devices = devices_of(session, where, after)
    for number, device in enumerate(devices, 1):
        found += device_last_values(session, device, None if metric is None else [metric], now_us)
        if len(found) >= limit and number < len(devices):
            return found, device
    return found, ""


def devices_of(session: Session, where: str | None, after: str = "") -> list[str]:
    """Ids of the devices in the session's scope that meet a condition, in order."""
    asked = scopes.restrict(session, select(Device.id).where(col(Device.id) > after), col(Device.id))
    if where is not None:
        asked = asked.where(col(Device.id).in_(query.matching(session, where)))
    return list(session.connection().execute(asked.order_by(col(Device.id))).scalars())
