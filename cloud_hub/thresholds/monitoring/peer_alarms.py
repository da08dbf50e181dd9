"""Alarms of the peer comparison: of a server, or of a service on one of its servers; at most one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, or_, select
from sqlmodel import Session

from cloud_hub.audit import trail
from cloud_hub.clock import new_id, new_trace
from cloud_hub.database.tables import AlarmRow
from cloud_hub.thresholds.monitoring.alarm_sink import AlarmSink
from cloud_hub.thresholds.peers.alarms import Fleet, PeerAlarmTransition, PeerTask
from cloud_hub.thresholds.scores.alarms import feedback_margin
from shared.protocol.messages import Alarm

_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]


def false_verdicts(session: Session) -> dict[tuple[str, str, str], int]:
    """The number of alarms judged false by (metric, device, about), where about is peers or service."""
    table = _ALARMS.c
    query = select(table.metric, table.device, table.about, func.count()).where(
        table.about.in_(("peers", "service")), table.verdict == "false-alarm"
    )  # fmt: skip
    found = session.connection().execute(query.group_by(table.metric, table.device, table.about))
    return {(metric, device, about): count for metric, device, about, count in found}


def alarm_thresholds(
    metric: str, fleet: Fleet, asked: tuple[float, float], false: Mapping[tuple[str, str, str], int]
) -> tuple[float, ...]:
    """The evidence threshold of each member: the budget's for servers and services, with the required rarity doubled
    per alarm judged false, as for anomalies.

    Verdicts on a service count for the service that the device of the alarm belongs to now.
    """
    wrong = [false.get((metric, device, "peers"), 0) for device in fleet.devices] + [0] * len(fleet.names)
    for device, service in zip(fleet.devices, fleet.service, strict=True):
        wrong[len(fleet.devices) + service] += false.get((metric, device, "service"), 0)
    budget = [asked[0]] * len(fleet.devices) + [asked[1]] * len(fleet.names)
    return tuple(one + feedback_margin(count) for one, count in zip(budget, wrong, strict=True))


def report_changes(
    session: Session,
    task: PeerTask,
    members: list[tuple[str, str]],
    changes: list[PeerAlarmTransition],
    calm: dict[int, int],
    kept: dict[tuple[str, str], dict[str, Any]],
    now_us: int,
    alarm_sink: AlarmSink,
) -> list[dict[str, Any]]:
    """Raise and clear alarms; returns the active ones. Alarms of members that left the fleet are cleared."""
    active = dict(kept)
    for member in [member for member in kept if member not in members]:
        gone = active.pop(member)
        alarm_sink(session, gone["on"], cleared_alarm(task.metric, gone, now_us, 0.0, 0.0), now_us, new_trace())
    for change in changes:
        member, limit = members[change.member], task.limits[change.member]
        if change.state == "cleared":
            if (one := active.pop(member, None)) is not None:
                alarm = cleared_alarm(task.metric, one, change.t_us, change.evidence, limit)
                alarm_sink(session, one["on"], alarm, now_us, new_trace())
        elif not _stands(session, task, change, member[1]):
            active[member] = _begin(session, task, change, member, limit, now_us, alarm_sink)
        session.flush()
    return [one | {"calm": calm[n]} for n, member in enumerate(members) if n in calm and (one := active.get(member))]


def _begin(
    session: Session,
    task: PeerTask,
    change: PeerAlarmTransition,
    member: tuple[str, str],
    limit: float,
    now_us: int,
    alarm_sink: AlarmSink,
) -> dict[str, Any]:
    device, trace = task.fleet.devices[change.server], new_trace()
    alarm = Alarm(
        id=new_id(), metric=task.metric, kind="high", state="raised", priority="medium", t_us=change.t_us,
        value=change.evidence, limit=limit, about="service" if member[1] else "peers",
    )  # fmt: skip
    alarm_sink(session, device, alarm, now_us, trace, task.fleet.names[task.fleet.service[change.server]])
    if member[1]:
        trail.add(session, now_us, "hub", "alarm.of-service", member[1], device=device, trace=trace, alarm=alarm.id,
                  metric=task.metric, learning=task.learning)  # fmt: skip
    return {"device": member[0], "service": member[1], "on": device, "alarm": alarm.id, "calm": 0}


def cleared_alarm(metric: str, one: dict[str, Any], t_us: int, evidence: float, limit: float) -> Alarm:
    """The cleared state of an active alarm."""
    return Alarm(
        id=one["alarm"], metric=metric, kind="high", state="cleared", priority="medium", t_us=t_us, value=evidence,
        limit=limit, about="service" if one["service"] else "peers",
    )  # fmt: skip


def _stands(session: Session, task: PeerTask, change: PeerAlarmTransition, service: str) -> bool:
    """Whether an alarm is active already: of the server by any metric, of the service, or of this series."""
    fleet, device = task.fleet, task.fleet.devices[change.server]
    same = (_ALARMS.c.device == device) & (_ALARMS.c.metric == task.metric) & (_ALARMS.c.about != "forecast")
    if service:
        number = fleet.names.index(service)
        members = [one for one, of in zip(fleet.devices, fleet.service, strict=True) if of == number]
        known = _ALARMS.c.device.in_(members) & (_ALARMS.c.about == "service")
    else:
        known = (_ALARMS.c.device == device) & (_ALARMS.c.about == "peers")
    found = select(_ALARMS.c.id).where(_ALARMS.c.state == "raised", or_(same, known))
    return session.connection().execute(found.limit(1)).first() is not None
