"""Tables of alarms, suppressions, incidents and notifications."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import JSONS, big_integer, json_list, json_object


class AlarmRow(SQLModel, table=True):
    """One alarm through its life (ISA-18.2); `alarms.isa_state` derives its state from these columns.

    `about` is what was judged; '' is the value itself. `suppressed` is why nobody is paged for it: shelved, suppressed
    (by design) or out-of-service. `verdict` is the operator's: real, false-alarm or ''. `cleared_by` and
    `cleared_reason` are set when something other than its device cleared it.
    """

    __tablename__ = "alarms"
    __table_args__ = (
        Index("alarms_by_device", "device", "raised_us"), Index("alarms_by_time", "received_us"),
        Index("alarms_suppressed", "suppressed", "state"),
        Index("alarms_by_incident", "incident", "state"),
    )  # fmt: skip
    id: str = Field(primary_key=True)
    device: str
    metric: str
    kind: str
    priority: str
    state: str
    value: float
    limit: float
    raised_us: int = big_integer()
    cleared_us: int | None = big_integer(default=None)
    received_us: int = big_integer()
    incident: str = ""
    trace_id: str = ""
    about: str = ""
    acked_us: int | None = big_integer(default=None)
    acked_by: str = ""
    comment: str = ""
    verdict: str = ""
    verdict_us: int | None = big_integer(default=None)
    verdict_by: str = ""
    suppressed: str = ""
    cleared_by: str = ""
    cleared_reason: str = ""


class Suppression(SQLModel, table=True):
    """A period during which alarms page nobody: those of a device, or of all devices below an asset path.

    `method` is shelved, suppressed (by design: a maintenance window) or out-of-service; `metric` '' covers all metrics.
    Only out-of-service may have no end. `ended_us` is set when a person ended it early.
    """

    __tablename__ = "suppressions"
    __table_args__ = (Index("suppressions_by_end", "until_us"),)
    id: str = Field(primary_key=True)
    method: str
    device: str = ""
    path: str = ""
    metric: str = ""
    reason: str = ""
    actor: str
    created_us: int = big_integer()
    from_us: int = big_integer()
    until_us: int | None = big_integer(default=None)
    ended_us: int | None = big_integer(default=None)
    ended_by: str = ""


class Incident(SQLModel, table=True):
    """The alarms of one device about one subject, their diagnosis, and their resolution. A member of a group.

    `page` identifies the group: its members have the same, the id of its first incident. One member `leads`: the first,
    or the cause that the topology gives. `joined_because` says why it is in a group that it did not begin. `placed_by`
    is who merged or split it; the hub then moves it no more. `silent`: its alarms say that data is missing.
    `grouped_us` is when the topology was last applied to it, None or 0 when that is due; `case_us` when its case was
    closed.
    `service` is the device's service when the peer comparison opened the incident. `resolved_by` and `resolution` are
    set when a person resolved it, and empty when its alarms cleared.
    """

    __tablename__ = "incidents"
    __table_args__ = (
        Index("incidents_by_time", "opened_us", "id"), Index("incidents_by_subject", "device", "subject", "state"),
        Index("incidents_leading", "leads", "id"), Index("incidents_to_group", "grouped_us", "id"),
        Index("incidents_without_case", "case_us", "resolved_us"),
    )  # fmt: skip
    id: str = Field(primary_key=True)
    device: str
    subject: str
    state: str = "open"
    opened_us: int = big_integer()
    resolved_us: int | None = big_integer(default=None)
    diagnosis: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    diagnosed_us: int | None = big_integer(default=None)
    traceparent: str = ""
    page: str = Field(default="", index=True)
    service: str = ""
    resolved_by: str = ""
    resolution: str = ""
    leads: bool = True
    joined_because: str = ""
    placed_by: str = ""
    silent: bool = False
    grouped_us: int | None = big_integer(default=None)
    case_us: int | None = big_integer(default=None)


class IncidentEvidence(SQLModel, table=True):
    """The evidence that an incident was last diagnosed by (`incidents.core.evidence.Evidence`)."""

    __tablename__ = "incident_evidence"
    incident: str = Field(primary_key=True)
    device: str = Field(index=True)
    t_us: int = big_integer()
    evidence: dict[str, Any] = json_object()


class Case(SQLModel, table=True):
    """What became of a resolved incident, kept when the incident is deleted. `id` is the incident's.

    The columns up to `metrics` are the features by which similar incidents find it. `actions` are what was proposed,
    each with its state and whether it helped. `outcome`: helped (an action ended it), by-person, by-itself, or returned
    (its alarm came back, at `returned_us`). `evidence` is what the diagnosis rested on.
    """

    __tablename__ = "cases"
    __table_args__ = (
        Index("cases_by_cause", "site", "cause", "id"), Index("cases_by_subject", "site", "subject", "id"),
        Index("cases_by_device", "site", "device", "id"), Index("cases_by_service", "site", "service", "id"),
    )  # fmt: skip
    id: str = Field(primary_key=True)
    page: str
    device: str
    site: str = ""
    profile: str = ""
    service: str = ""
    subject: str
    cause: str = ""
    metrics: list[str] = json_list()
    opened_us: int = big_integer()
    resolved_us: int = big_integer()
    returned_us: int | None = big_integer(default=None)
    outcome: str
    resolution: str = ""
    diagnosis: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    actions: list[dict[str, Any]] = json_list()
    evidence: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))


class Notification(SQLModel, table=True):
    """Delivery state of one page (the id of its first incident) on one notification channel.

    `due_status` and `sent_status` are the status to send and the status sent last: open, resolved or ''. `due_us` is
    the time of the next attempt, None when nothing is pending; `since_us` is when `due_status` was set. `state` is
    waiting, notified, closed or given-up. `notified` has the highest priority sent for each (device, subject), as a
    number; `due_priority` is the priority of the planned message. `messages` and `times_resolved` count what was sent.
    """

    __tablename__ = "notifications"
    __table_args__ = (UniqueConstraint("channel", "page"), Index("notifications_due", "channel", "due_us"))
    id: str = Field(primary_key=True)
    channel: str
    page: str = Field(index=True)
    device: str
    state: str = "waiting"
    due_status: str = "open"
    sent_status: str = ""
    sent_priority: str = ""
    due_us: int | None = big_integer(default=None)
    since_us: int = big_integer()
    sent_us: int | None = big_integer(default=None)
    tries: int = 0
    error: str = ""
    notified: dict[str, Any] = json_object()
    due_priority: str = ""
    messages: int = 0
    times_resolved: int = 0
