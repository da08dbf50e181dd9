"""Every table. Times are UTC microseconds. Alembic revisions in `migrations/` make just these; a test compares them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel


def _big(**options: Any) -> Any:
    return Field(sa_type=BigInteger, **options)


class Meta(SQLModel, table=True):
    """The hub's own small facts: `hub_epoch`."""

    __tablename__ = "meta"
    key: str = Field(primary_key=True)
    value: str


class Device(SQLModel, table=True):
    """A device as its last birth told."""

    __tablename__ = "devices"
    id: str = Field(primary_key=True)
    profile: str = ""
    version: str = ""
    protocol: int = 1
    asset_path: str = ""
    state: str = "offline"
    session: str = ""
    epoch: str = ""
    clock: str = ""
    metrics: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    conflict: str = ""
    born_us: int = _big(default=0)
    seen_us: int = _big(default=0)


class HighWater(SQLModel, table=True):
    """Up to where a stream of one epoch of a device is durable here. Kept for ever."""

    __tablename__ = "high_water"
    __table_args__ = (UniqueConstraint("device", "epoch", "stream"),)
    id: int | None = Field(default=None, primary_key=True)
    device: str
    epoch: str
    stream: str
    upto: int = _big(default=0)


class LostRange(SQLModel, table=True):
    """Items that a device accepted and will never send, with the stated reason."""

    __tablename__ = "lost"
    source: int = Field(primary_key=True, foreign_key="high_water.id")
    first: int = _big(primary_key=True)
    last: int = _big()
    reason: str


class TelemetrySample(SQLModel, table=True):
    """One sample; `source` and `seq` are its delivery identity, so that nothing is ever counted twice."""

    __tablename__ = "telemetry"
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    t_us: int = _big(primary_key=True)
    source: int = Field(primary_key=True)
    seq: int = _big(primary_key=True)
    value: float | None = None
    text: str | None = None
    quality: str = "good"


class EventRow(SQLModel, table=True):
    """One event of a device."""

    __tablename__ = "events"
    __table_args__ = (Index("events_by_device", "device", "t_us"),)
    source: int = Field(primary_key=True)
    seq: int = _big(primary_key=True)
    device: str
    t_us: int = _big()
    origin: str
    level: str
    text: str
    fields: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    trace_id: str = ""


class AlarmRow(SQLModel, table=True):
    """One alarm through its life."""

    __tablename__ = "alarms"
    __table_args__ = (Index("alarms_by_device", "device", "raised_us"),)
    id: str = Field(primary_key=True)
    device: str
    metric: str
    kind: str
    priority: str
    state: str
    value: float
    limit: float
    raised_us: int = _big()
    cleared_us: int | None = _big(default=None)
    received_us: int = _big()
    incident: str = Field(default="", index=True)
    trace_id: str = ""


class EscalationRow(SQLModel, table=True):
    """One frame that a gate would not keep, and the expert's answer once it is there."""

    __tablename__ = "escalations"
    __table_args__ = (Index("escalations_by_model", "device", "model", "received_us"),)
    id: str = Field(primary_key=True)
    device: str
    model: str
    digest: str
    number: int = _big()
    reason: str
    label: str
    margin: float
    height: int
    width: int
    frame: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    features: dict[str, float] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    t_us: int = _big()
    received_us: int = _big()
    wire_bytes: int = 0
    trace_id: str = ""
    answer: str | None = Field(default=None, index=True)
    confidence: float | None = None
    expert: str = ""
    answered_us: int | None = _big(default=None)


class TwinRow(SQLModel, table=True):
    """One twin document; `name` '' is the classic one."""

    __tablename__ = "twins"
    device: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: int = _big(default=0)
    deleted: bool = True
    state: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    marks: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    timestamp: int = _big(default=0)


class AppliedRow(SQLModel, table=True):
    """The last word of a device on one path of desired state."""

    __tablename__ = "applied"
    device: str = Field(primary_key=True)
    shadow: str = Field(primary_key=True)
    path: str = Field(primary_key=True)
    version: int = _big()
    state: str
    reason: str = ""
    t_us: int = _big()


class Command(SQLModel, table=True):
    """One command and what became of it."""

    __tablename__ = "commands"
    id: str = Field(primary_key=True)
    device: str = Field(index=True)
    verb: str
    target: str
    state: str = "sent"
    text: str = ""
    output: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created_us: int = _big()
    expires_us: int = _big()
    done_us: int | None = _big(default=None)
    traceparent: str = ""


class Incident(SQLModel, table=True):
    """Alarms that belong together, their diagnosis, and how it ended."""

    __tablename__ = "incidents"
    id: str = Field(primary_key=True)
    device: str = Field(index=True)
    subject: str
    state: str = "open"
    opened_us: int = _big()
    resolved_us: int | None = _big(default=None)
    diagnosis: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    diagnosed_us: int | None = _big(default=None)
    traceparent: str = ""


class Action(SQLModel, table=True):
    """A proposed action on its way: proposed, waiting, approved, executing, executed, verified, failed, refused."""

    __tablename__ = "actions"
    id: str = Field(primary_key=True)
    incident: str = Field(index=True)
    device: str
    verb: str
    target: str
    reason: str
    state: str = "proposed"
    policy: str = ""
    before: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    command: str = ""
    outcome: str = ""
    changed_us: int = _big()
    traceparent: str = ""


class Rollout(SQLModel, table=True):
    """A set of limits pushed to canary devices, with what was desired before, until it is confirmed or taken back."""

    __tablename__ = "rollouts"
    id: str = Field(primary_key=True)
    devices: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    wanted: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    previous: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    started_us: int = _big()
    watch_s: float
    max_alarms: int
    state: str = "watching"
    reason: str = ""
    ended_us: int | None = _big(default=None)
    traceparent: str = ""


class ScaleStep(SQLModel, table=True):
    """One decision of the autoscaler that asked for a change; `id` is its idempotency key."""

    __tablename__ = "scale_steps"
    id: str = Field(primary_key=True)
    t_us: int = _big()
    demand: float
    before: int
    to: int
    reason: str
    state: str = "decided"
    outcome: str = ""


class AuditRow(SQLModel, table=True):
    """Who did what, when, with which result; each row's hash covers the one before."""

    __tablename__ = "audit"
    seq: int | None = Field(default=None, primary_key=True)
    t_us: int = _big()
    who: str
    kind: str
    subject: str
    device: str = ""
    trace_id: str = ""
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    hash: str


class Token(SQLModel, table=True):
    """A REST token; only its SHA-256 is stored."""

    __tablename__ = "tokens"
    id: str = Field(primary_key=True)
    name: str
    role: str
    digest: str = Field(unique=True)
    created_us: int = _big()
    revoked_us: int | None = _big(default=None)
