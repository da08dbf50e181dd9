"""The typed, read-only tools that answer questions. A session's scope bounds what they see, `MOST` what they return.

Each tool is a function of a session, its decoded arguments and the time; it writes nothing. An unknown device, an
invalid condition or a missing right is a refusal in words, never an error of the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from sqlmodel import Session, col, select

from cloud_hub import query
from cloud_hub.alarms import service as alarm_service
from cloud_hub.ask.core.facts import Finding, ToolCall
from cloud_hub.audit import trail
from cloud_hub.database import scopes
from cloud_hub.database.tables import Action, AlarmRow, Incident
from cloud_hub.devices import registry
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.core.messages import sanitize
from cloud_hub.telemetry import samples
from cloud_hub.telemetry.rollups.last_values import device_last_values, devices_of
from cloud_hub.telemetry.rollups.ranges import query_range
from cloud_hub.telemetry.rollups.top_k import top_devices
from cloud_hub.twins import service as twins
from shared.durations import SECOND_US
from shared.twin import shadow

MOST = 20
"""Findings of one call."""
FLEET = 2000
"""Devices that `highest` ranks at most."""
POINTS = 500

Name = Annotated[str, msgspec.Meta(max_length=200)]
Span = Annotated[float, msgspec.Meta(gt=0, le=366 * 86_400)]


class Where(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition of the query language, such as tags.site = 'a' AND state = 'offline'; '' is every device."""

    where: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class OneDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device, by its id."""

    device: Name


class Twin(OneDevice, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A twin document of a device; '' is the classic one."""

    name: Name = ""


class Values(OneDevice, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Last values of a device: of one metric, or '' for all."""

    metric: Name = ""


class Series(OneDevice, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric of a device over the last `since_s` seconds."""

    metric: Name
    since_s: Span = 86_400.0


class Highest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The devices with the highest 95th percentile of a metric over the last `since_s` seconds."""

    metric: Name
    since_s: Span = 86_400.0
    where: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class Alarms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alarms of a device ('' for all): those raised now, or all of the last `since_s` seconds."""

    device: Name = ""
    state: Literal["raised", "cleared", ""] = ""
    since_s: Span | None = None


class Incidents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Incidents of a device ('' for all) that are unresolved, or were opened in the last `since_s` seconds."""

    device: Name = ""
    state: Literal["unresolved", "resolved", ""] = ""
    since_s: Span | None = None


class IncidentId(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An incident, by its id."""

    id: Name


class Period(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last `since_s` seconds; of a device, or '' for all."""

    device: Name = ""
    since_s: Span = 86_400.0


Run = Callable[[Session, Any, int], Sequence[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool: what it does (for a language model), the type of its arguments, and the role's power that it needs."""

    about: str
    arguments: type[msgspec.Struct]
    run: Run
    power: str = "read"


def run(session: Session, call: ToolCall, now_us: int, powers: frozenset[str]) -> list[Finding]:
    """Run a tool: at most `MOST` findings, `more` behind them, or one finding `nothing` or `refused`."""
    shown = msgspec.json.encode(call.arguments).decode()[:200]
    tool = TOOLS.get(call.tool)
    if tool is None or tool.power not in powers:
        reason = "it does not exist" if tool is None else f"your role may not {tool.power}"
        return [Finding(kind="refused", data={"tool": call.tool, "reason": reason})]
    try:
        arguments = msgspec.convert(call.arguments, tool.arguments)
        found = list(tool.run(session, arguments, now_us))
    except msgspec.ValidationError as error:
        return [Finding(kind="refused", data={"tool": call.tool, "reason": str(error)})]
    except HubError as error:
        return [Finding(kind="refused", data={"tool": call.tool, "reason": error.detail})]
    if not found:
        return [Finding(kind="nothing", data={"tool": call.tool, "arguments": shown})]
    more = [Finding(kind="more", data={"tool": call.tool, "count": MOST})] if len(found) > MOST else []
    return found[:MOST] + more


def available(powers: frozenset[str]) -> Mapping[str, Tool]:
    """The tools that a caller with these powers may use."""
    return {name: tool for name, tool in TOOLS.items() if tool.power in powers}


# -- devices ---------------------------------------------------------------------------------------


def _find_devices(session: Session, asked: Where, _: int) -> list[Finding]:
    found = query.devices(session, asked.where or "*", limit=MOST + 1)
    rows = [registry.get_device(session, device) for device in found]
    return [Finding(kind="device", data=_device_data(row)) for row in rows]


def _count_devices(session: Session, asked: Where, _: int) -> list[Finding]:
    return [Finding(kind="count", data={"count": query.count(session, asked.where or "*")})]


def _device(session: Session, asked: OneDevice, _: int) -> list[Finding]:
    row = registry.get_device(session, asked.device)
    return [Finding(kind="device", data=_device_data(row) | {"tags": row.tags, "asset_path": row.assigned_path})]


def _device_data(row: Any) -> dict[str, Any]:
    names = {"state": row.state, "profile": row.profile or "-", "version": row.version or "-", "seen_us": row.seen_us}
    return {"device": row.id, **names}


def _twin(session: Session, asked: Twin, _: int) -> list[Finding]:
    registry.require_device(session, asked.device)
    document = twins.load(session, asked.device, asked.name).state
    desired, reported = document.get("desired", {}), document.get("reported", {})
    differing = shadow.difference(desired, reported)
    key = {"device": asked.device, "name": asked.name or "-"}
    found = [
        Finding(kind="difference", data=key | {"path": path, "desired": _short(value), "reported": _at(reported, path)})
        for path, value in _leaves(differing)
    ]
    found = found or [Finding(kind="in sync", data=key)]
    refused = [row for row in twins.progress(session, asked.device) if row.shadow == asked.name]
    return found + [
        Finding(kind="progress", data={"device": row.device, "path": row.path, "state": row.state, "reason": row.reason,
                                       "t_us": row.t_us}) for row in refused
    ]  # fmt: skip


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, dict) or not tree:
        return [(path, tree)] if path else []
    return [leaf for name, value in tree.items() for leaf in _leaves(value, f"{path}.{name}" if path else str(name))]


def _at(tree: Any, path: str) -> str:
    for name in path.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return _short(tree)


def _short(value: Any) -> str:
    return sanitize(msgspec.json.encode(value).decode(), 120)


# -- telemetry -------------------------------------------------------------------------------------


def _last_values(session: Session, asked: Values, now_us: int) -> list[Finding]:
    registry.require_device(session, asked.device)
    only = [asked.metric] if asked.metric else None
    return [
        Finding(kind="value", data={"device": row.device, "metric": row.metric, "value": row.value, "t_us": row.t_us,
                                    "quality": row.quality})
        for row in device_last_values(session, asked.device, only, now_us)[: MOST + 1]
    ]  # fmt: skip


def _series(session: Session, asked: Series, now_us: int) -> list[Finding]:
    registry.require_device(session, asked.device)
    start_us = now_us - int(asked.since_s * SECOND_US)
    found = query_range(session, asked.device, asked.metric, start_us, now_us, points=POINTS, resolution=None)
    points = [(row.t_us, row.value) for row in found.samples if row.value is not None]
    if found.resolution == "raw":
        values = [value for _, value in points]
        low, high, count, total = (min(values), max(values), len(values), sum(values)) if values else (0, 0, 0, 0.0)
        last = values[-1] if values else 0.0
    else:
        made = found.buckets
        count = int(made.count.sum())
        low, high = (float(made.low.min()), float(made.high.max())) if count else (0.0, 0.0)
        total = float((made.mean * made.count).sum())
        last = float(made.mean[-1]) if count else 0.0
    if not count:
        return []
    return [Finding(kind="series", data={
        "device": asked.device, "metric": asked.metric, "start_us": start_us, "end_us": now_us, "mean": total / count,
        "low": low, "high": high, "last": last, "count": count,
    })]  # fmt: skip


def _highest(session: Session, asked: Highest, now_us: int) -> list[Finding]:
    devices = devices_of(session, asked.where or None)[:FLEET]
    start_us = now_us - int(asked.since_s * SECOND_US)
    found = top_devices(session, devices, asked.metric, start_us, now_us, share=0.95, k=10)
    return [Finding(kind="rank", data={"device": rank.device, "value": rank.value, "count": rank.count})
            for rank in found.ranks]  # fmt: skip


def _events(session: Session, asked: Period, now_us: int) -> list[Finding]:
    if not asked.device:
        return []
    registry.require_device(session, asked.device)
    rows = samples.events(session, asked.device, now_us - int(asked.since_s * SECOND_US), MOST + 1)
    return [Finding(kind="event", data={"device": row.device, "t_us": row.t_us, "level": row.level, "text": row.text})
            for row in rows]  # fmt: skip


# -- alarms, incidents, actions ----------------------------------------------------------------------


def _alarms(session: Session, asked: Alarms, now_us: int) -> list[Finding]:
    _require(session, asked.device)
    since_us = None if asked.since_s is None else now_us - int(asked.since_s * SECOND_US)
    rows = alarm_service.list_alarms(session, device=asked.device, state=asked.state, since_us=since_us, limit=MOST + 1)
    return [_alarm_finding(row) for row in rows]


def _alarm_finding(row: AlarmRow) -> Finding:
    return Finding(kind="alarm", data={
        "device": row.device, "metric": row.metric, "value": row.value, "limit": row.limit, "priority": row.priority,
        "state": row.state, "raised_us": row.raised_us, "kind": row.kind, "about": row.about, "incident": row.incident,
    })  # fmt: skip


def _frequent_alarms(session: Session, asked: Period, now_us: int) -> list[Finding]:
    _require(session, asked.device)
    report = alarm_service.performance(session, now_us - int(asked.since_s * SECOND_US), now_us, device=asked.device)
    total = Finding(kind="total", data={"count": report.alarms, "pages": report.pages})
    return [total, *(Finding(kind="frequent", data={"device": one.device, "metric": one.metric, "count": one.alarms})
                     for one in report.top[:10])] if report.alarms else []  # fmt: skip


def _incidents(session: Session, asked: Incidents, now_us: int) -> list[Finding]:
    _require(session, asked.device)
    rows = select(Incident).order_by(col(Incident.opened_us).desc(), col(Incident.id).desc()).limit(MOST + 1)
    if asked.device:
        rows = rows.where(Incident.device == asked.device)
    if asked.state == "unresolved":
        rows = rows.where(col(Incident.state).in_(incidents.UNRESOLVED))
    elif asked.state:
        rows = rows.where(Incident.state == asked.state)
    if asked.since_s is not None:
        rows = rows.where(col(Incident.opened_us) >= now_us - int(asked.since_s * SECOND_US))
    found = list(session.exec(scopes.restrict(session, rows, col(Incident.device))))
    return [part for row in found for part in _incident_findings(row)]


def _incident_findings(row: Incident) -> list[Finding]:
    diagnosis = row.diagnosis or {}
    cause = str(diagnosis.get("cause", "not diagnosed yet"))
    found = [Finding(kind="incident", data={
        "id": row.id, "device": row.device, "subject": row.subject, "state": row.state, "opened_us": row.opened_us,
        "resolved_us": row.resolved_us, "cause": cause,
    })]  # fmt: skip
    if diagnosis.get("explanation"):
        found.append(Finding(kind="explanation", data={
            "id": row.id, "engine": diagnosis.get("engine", "?"), "explanation": diagnosis["explanation"],
        }))  # fmt: skip
    return found


def _incident(session: Session, asked: IncidentId, _: int) -> list[Finding]:
    row = incidents.get(session, asked.id)
    alarms = [_alarm_finding(alarm) for alarm in incidents.alarms(session, row.id)[:10]]
    return [*_incident_findings(row), *alarms, *(_action_finding(one) for one in incidents.actions(session, row.id))]


def _actions(session: Session, asked: Period, now_us: int) -> list[Finding]:
    _require(session, asked.device)
    since_us = now_us - int(asked.since_s * SECOND_US)
    rows = select(Action).where(col(Action.changed_us) >= since_us).order_by(col(Action.changed_us).desc())
    if asked.device:
        rows = rows.where(Action.device == asked.device)
    found = session.exec(scopes.restrict(session, rows.limit(MOST + 1), col(Action.device)))
    return [_action_finding(row) for row in found]


def _action_finding(row: Action) -> Finding:
    return Finding(kind="action", data={
        "id": row.id, "device": row.device, "action": f"{row.verb} {row.target}", "state": row.state,
        "outcome": row.outcome or row.policy, "changed_us": row.changed_us,
    })  # fmt: skip


def _changes(session: Session, asked: Period, now_us: int) -> list[Finding]:
    _require(session, asked.device)
    rows = trail.rows(session, since_us=now_us - int(asked.since_s * SECOND_US), device=asked.device, limit=10 * MOST)
    kept = [row for row in rows if not row.kind.startswith(("alarm.", "incident."))]
    return [Finding(kind="change", data={
        "t_us": row.t_us, "actor": row.actor, "kind": row.kind, "device": row.device or "-", "subject": row.subject,
    }) for row in kept[: MOST + 1]]  # fmt: skip


def _require(session: Session, device: str) -> None:
    if device:
        registry.require_device(session, device)


TOOLS: dict[str, Tool] = {
    "find_devices": Tool(about="Devices that meet a condition.", arguments=Where, run=_find_devices),
    "count_devices": Tool(about="How many devices meet a condition.", arguments=Where, run=_count_devices),
    "device": Tool(about="State, profile, tags and place of a device.", arguments=OneDevice, run=_device),
    "twin": Tool(about="Where reported state differs from desired, and what the device says about it.",
                 arguments=Twin, run=_twin),
    "last_values": Tool(about="The newest samples of a device.", arguments=Values, run=_last_values),
    "series": Tool(about="Mean, lowest, highest and last of a metric over a period.", arguments=Series, run=_series),
    "highest": Tool(about="The devices with the highest values of a metric.", arguments=Highest, run=_highest),
    "alarms": Tool(about="Alarms with value, limit and priority.", arguments=Alarms, run=_alarms),
    "frequent_alarms": Tool(about="The alarms raised most often.", arguments=Period, run=_frequent_alarms),
    "incidents": Tool(about="Incidents with their diagnosed causes.", arguments=Incidents, run=_incidents),
    "incident": Tool(about="One incident with diagnosis, alarms and actions.", arguments=IncidentId, run=_incident),
    "actions": Tool(about="Actions proposed or carried out, and their outcome.", arguments=Period, run=_actions),
    "events": Tool(about="Log events that a device reported.", arguments=Period, run=_events),
    "changes": Tool(about="Who changed what: the audit trail.", arguments=Period, run=_changes, power="audit"),
}  # fmt: skip
