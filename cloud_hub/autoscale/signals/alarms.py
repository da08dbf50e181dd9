"""The load of operations: raised alarms and open incidents that match."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlmodel import col

from cloud_hub import query
from cloud_hub.autoscale.core.sources import AlarmSource, IncidentSource
from cloud_hub.autoscale.signals.base import SignalContext, Value
from cloud_hub.database.tables import AlarmRow, Incident


def read_alarms(source: AlarmSource, context: SignalContext, fresh_s: float, now_us: int) -> Value:
    """The number of raised alarms."""
    wanted: list[Any] = [col(AlarmRow.state) == "raised", col(AlarmRow.suppressed) == ""]
    if source.metric:
        wanted.append(col(AlarmRow.metric) == source.metric)
    if source.priority:
        wanted.append(col(AlarmRow.priority) == source.priority)
    return Value(_count(context, AlarmRow, wanted, source.where), now_us, "alarms")


def read_incidents(source: IncidentSource, context: SignalContext, fresh_s: float, now_us: int) -> Value:
    """The number of incidents that are not resolved."""
    wanted: list[Any] = [col(Incident.resolved_us).is_(None)]
    if source.subject:
        wanted.append(col(Incident.subject) == source.subject)
    return Value(_count(context, Incident, wanted, source.where), now_us, "incidents")


def _count(context: SignalContext, table: Any, wanted: list[Any], where: str) -> float:
    with context.db.read() as session:
        if where != "*":
            wanted = [*wanted, table.device.in_(query.matching(session, where))]
        counted = select(func.count()).select_from(table).where(*wanted)
        return float(session.connection().execute(counted).scalar_one())
