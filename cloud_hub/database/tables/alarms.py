"""Tables of alarms, suppressions, incidents and notifications."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import JSONS, big_integer, json_object


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
    """A group of related alarms, its diagnosis, and its resolution.

    `page` is the incident that a person was paged for: this one, or an earlier one that it was grouped with. `service`
    is the device's service when the peer comparison opened the incident. `resolved_by` and `resolution` are set when a
    person resolved it, and empty when its alarms cleared.
    """

    __tablename__ = "incidents"
    __table_args__ = (
        Index("incidents_by_time", "opened_us", "id"), Index("incidents_by_subject", "device", "subject", "state"),
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
