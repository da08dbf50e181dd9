"""Every table. Times are UTC microseconds. Alembic revisions in `migrations/` make just these; a test compares them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_TEXT_JSON = JSON(none_as_null=True)
"""Kept as written on PostgreSQL too: JSONB would sort the names, and a hash over the text would no longer fit."""
_SERIAL = BigInteger().with_variant(Integer, "sqlite")
"""A number that the database gives; SQLite counts INTEGER keys only."""


def _big(**options: Any) -> Any:
    return Field(sa_type=BigInteger, **options)


def _object() -> Any:
    return Field(default_factory=dict, sa_column=Column(_JSON, nullable=False))


def _list() -> Any:
    return Field(default_factory=list, sa_column=Column(_JSON, nullable=False))


class Meta(SQLModel, table=True):
    """The hub's own small facts: `hub_epoch`."""

    __tablename__ = "meta"
    key: str = Field(primary_key=True)
    value: str


class Device(SQLModel, table=True):
    """A device as its last birth told. `tags` are the hub's own words about it: no device ever sees them.

    `asset_path` is what the device claims, `assigned_path` what a person said: only that counts for scopes.
    """

    __tablename__ = "devices"
    id: str = Field(primary_key=True)
    profile: str = ""
    version: str = ""
    protocol: int = _big(default=1)
    asset_path: str = ""
    state: str = "offline"
    session: str = ""
    epoch: str = ""
    clock: str = ""
    metrics: list[dict[str, Any]] = _list()
    conflict: str = ""
    tags: dict[str, Any] = _object()
    tags_version: int = _big(default=0)
    born_us: int = _big(default=0)
    seen_us: int = _big(default=0)
    assigned_path: str = ""


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
    fields: dict[str, Any] = _object()
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
    features: dict[str, float] = _object()
    t_us: int = _big()
    received_us: int = _big()
    wire_bytes: int = 0
    trace_id: str = ""
    answer: str | None = Field(default=None, index=True)
    confidence: float | None = None
    expert: str = ""
    answered_us: int | None = _big(default=None)


class TwinRow(SQLModel, table=True):
    """One twin document; `name` '' is the classic one. `owners` has the shape of desired, with who set each leaf."""

    __tablename__ = "twins"
    device: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: int = _big(default=0)
    deleted: bool = True
    state: dict[str, Any] = _object()
    marks: dict[str, Any] = _object()
    owners: dict[str, Any] = _object()
    timestamp: int = _big(default=0)


class TwinChange(SQLModel, table=True):
    """One version of a twin document: who made it, when, and the change as it was sent.

    `state` is the whole document after the change; it stands in every so many rows, the others follow by merging.
    """

    __tablename__ = "twin_changes"
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: int = _big(primary_key=True)
    t_us: int = _big()
    who: str
    trace_id: str = ""
    verb: str
    patch: dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
    state: dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))


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
    """One command and what became of it.

    `heard_us` is the device's last word on it, `cancelled_us` when the hub gave it up, `done_us` when it ended.
    """

    __tablename__ = "commands"
    __table_args__ = (Index("commands_open", "done_us", "expires_us"),)
    id: str = Field(primary_key=True)
    device: str = Field(index=True)
    verb: str
    target: str
    args: dict[str, Any] = _object()
    mode: str = "direct"
    who: str = ""
    state: str = "sent"
    progress: float | None = None
    text: str = ""
    output: dict[str, Any] = _object()
    created_us: int = _big()
    expires_us: int = _big()
    heard_us: int | None = _big(default=None)
    cancelled_us: int | None = _big(default=None)
    done_us: int | None = _big(default=None)
    traceparent: str = ""


class Job(SQLModel, table=True):
    """One change or command for every device that a query finds. `content` is the patch, or the command.

    With `scope` only devices below these asset paths are found, whatever the query says.
    """

    __tablename__ = "jobs"
    id: str = Field(primary_key=True)
    kind: str
    query: str
    document: str = ""
    content: dict[str, Any] = _object()
    who: str
    state: str = "scheduled"
    reason: str = ""
    created_us: int = _big()
    start_us: int = _big()
    deadline_us: int = _big()
    ended_us: int | None = _big(default=None)
    traceparent: str = ""
    scope: list[str] | None = Field(default=None, sa_column=Column(_JSON))


class JobDevice(SQLModel, table=True):
    """What a job did to one device."""

    __tablename__ = "job_devices"
    __table_args__ = (Index("job_devices_by_state", "job", "state"), {"sqlite_with_rowid": False})
    job: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    state: str = "pending"
    reason: str = ""
    version: int | None = _big(default=None)
    command: str = ""
    t_us: int = _big()


class Configuration(SQLModel, table=True):
    """Desired state for every device that a query finds; the highest priority wins each path, then the newest.

    With `scope` only devices below these asset paths are found, whatever the target says.
    """

    __tablename__ = "configurations"
    id: str = Field(primary_key=True)
    priority: int = _big(default=0)
    target: str
    content: dict[str, Any] = _object()
    metrics: dict[str, Any] = _object()
    labels: dict[str, Any] = _object()
    who: str
    created_us: int = _big()
    scope: list[str] | None = Field(default=None, sa_column=Column(_JSON))


class ConfigurationDevice(SQLModel, table=True):
    """How one configuration stands on one of its devices: applied, overridden or in conflict, and where."""

    __tablename__ = "configuration_devices"
    __table_args__ = (
        Index("configuration_devices_by_device", "device"), {"sqlite_with_rowid": False},
    )  # fmt: skip
    configuration: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    state: str
    conflicts: list[dict[str, Any]] = _list()
    t_us: int = _big()


class Incident(SQLModel, table=True):
    """Alarms that belong together, their diagnosis, and how it ended."""

    __tablename__ = "incidents"
    id: str = Field(primary_key=True)
    device: str = Field(index=True)
    subject: str
    state: str = "open"
    opened_us: int = _big()
    resolved_us: int | None = _big(default=None)
    diagnosis: dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
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
    before: dict[str, Any] = _object()
    command: str = ""
    outcome: str = ""
    changed_us: int = _big()
    traceparent: str = ""


class Rollout(SQLModel, table=True):
    """A set of limits pushed to canary devices, with what was desired before, until it is confirmed or taken back."""

    __tablename__ = "rollouts"
    id: str = Field(primary_key=True)
    devices: list[str] = _list()
    wanted: list[dict[str, Any]] = _list()
    previous: dict[str, Any] = _object()
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
    """Who did what, when, with which result; each row's hash covers the one before. Triggers refuse to change it."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_by_device", "device", "seq"), Index("audit_by_time", "t_us"))
    seq: int | None = Field(default=None, sa_column=Column(_SERIAL, primary_key=True))
    t_us: int = _big()
    who: str
    kind: str
    subject: str
    device: str = ""
    trace_id: str = ""
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(_TEXT_JSON, nullable=False))
    hash: str


class Token(SQLModel, table=True):
    """A REST token; only its SHA-256 is stored. `role` is one role or more, with spaces between.

    `scope` None is the whole hub, else the asset paths below which it sees devices.
    """

    __tablename__ = "tokens"
    id: str = Field(primary_key=True)
    name: str
    role: str
    digest: str = Field(unique=True)
    created_us: int = _big()
    revoked_us: int | None = _big(default=None)
    expires_us: int | None = _big(default=None)
    scope: list[str] | None = Field(default=None, sa_column=Column(_JSON))


class LockoutRow(SQLModel, table=True):
    """An address that guessed tokens and is not listened to until then."""

    __tablename__ = "lockouts"

    address: str = Field(primary_key=True)
    until_us: int = _big()


class Identity(SQLModel, table=True):
    """How this hub stands to a device's identity. `proof_us` is the time in its newest proof: none counts twice."""

    __tablename__ = "identities"
    device: str = Field(primary_key=True)
    revoked_us: int | None = _big(default=None)
    reason: str = ""
    proof_us: int = _big(default=0)


class Claim(SQLModel, table=True):
    """A one-time claim by which a device enrols; only its SHA-256 is stored.

    `key_digest` is the key that used it: a device whose answer got lost may ask again, another one may not.
    `wrong_us` are the times of the latest wrong tries.
    """

    __tablename__ = "claims"
    device: str = Field(primary_key=True)
    digest: str
    who: str
    created_us: int = _big()
    expires_us: int = _big()
    used_us: int | None = _big(default=None)
    key_digest: str = ""
    wrong_us: list[int] = _list()


class CertificateRow(SQLModel, table=True):
    """A client certificate that this hub's CA issued; `serial` is hexadecimal."""

    __tablename__ = "certificates"
    serial: str = Field(primary_key=True)
    device: str = Field(index=True)
    cn: str
    issued_us: int = _big()
    expires_us: int = _big()
    revoked_us: int | None = _big(default=None)


class RollupDue(SQLModel, table=True):
    """An hour of a device whose samples changed since its rollups were made; `changes` counts how often."""

    __tablename__ = "rollup_due"
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    t_us: int = _big(primary_key=True)
    changes: int = _big(default=1)


class Rollup(SQLModel, table=True):
    """Count, lowest, highest and mean of each bucket of `step_s` seconds, packed (rollups/buckets.py).

    A row holds the minutes of an hour, the hours of a day, or one day, from `t_us` on. With a rowid: without one
    SQLite gives each row of more than 1,000 bytes a page of its own.
    """

    __tablename__ = "rollups"
    step_s: int = Field(primary_key=True)
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    t_us: int = _big(primary_key=True)
    buckets: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class SketchRow(SQLModel, table=True):
    """The distribution of one hour or day of a series (rollups/sketches.py)."""

    __tablename__ = "sketches"
    step_s: int = Field(primary_key=True)
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    t_us: int = _big(primary_key=True)
    sketch: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class KeptFrom(SQLModel, table=True):
    """From when on all samples, minutes, hours and sketches of hours of a series are kept.

    What is older went, and came into the next coarser.
    """

    __tablename__ = "kept_from"
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    raw_us: int = _big(default=0)
    minute_us: int = _big(default=0)
    hour_us: int = _big(default=0)
    sketch_us: int = _big(default=0)
