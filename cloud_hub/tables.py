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
    """One alarm through its life (ISA-18.2); `alarms.life` tells its state from these columns.

    `about` is what was judged, '' the value itself. `suppressed` says why nobody is paged for it: shelved, suppressed
    (by design) or out-of-service. `verdict` is the operator's: real, false-alarm or ''.
    """

    __tablename__ = "alarms"
    __table_args__ = (
        Index("alarms_by_device", "device", "raised_us"), Index("alarms_by_time", "received_us"),
        Index("alarms_suppressed", "suppressed", "state"),
    )  # fmt: skip
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
    about: str = ""
    acked_us: int | None = _big(default=None)
    acked_by: str = ""
    comment: str = ""
    verdict: str = ""
    verdict_us: int | None = _big(default=None)
    verdict_by: str = ""
    suppressed: str = ""


class Suppression(SQLModel, table=True):
    """Alarms for which nobody is paged, from a time until a time: of a device, or of all below an asset path.

    `how` is shelved, suppressed (by design: a maintenance window) or out-of-service; `metric` '' is all of them.
    Only what is out of service may have no end; `ended_us` is when a person ended it before its time.
    """

    __tablename__ = "suppressions"
    __table_args__ = (Index("suppressions_by_end", "until_us"),)
    id: str = Field(primary_key=True)
    how: str
    device: str = ""
    path: str = ""
    metric: str = ""
    reason: str = ""
    who: str
    created_us: int = _big()
    from_us: int = _big()
    until_us: int | None = _big(default=None)
    ended_us: int | None = _big(default=None)
    ended_by: str = ""


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
    """Alarms that belong together, their diagnosis, and how it ended.

    `page` is the incident that a person was called for: itself, or an earlier one that this one belongs to.
    """

    __tablename__ = "incidents"
    __table_args__ = (Index("incidents_by_time", "opened_us"),)
    id: str = Field(primary_key=True)
    device: str = Field(index=True)
    subject: str
    state: str = "open"
    opened_us: int = _big()
    resolved_us: int | None = _big(default=None)
    diagnosis: dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
    diagnosed_us: int | None = _big(default=None)
    traceparent: str = ""
    page: str = Field(default="", index=True)


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
    """Limits pushed to canary devices, then to the rest, until it is confirmed or taken back.

    By hand: `wanted` for all `devices` in one stage. Of a `learning`: each device its own, in two stages.
    `stage_us` is the latest push of the stage, `watch_us` since when enough of its devices have it in force.
    """

    __tablename__ = "rollouts"
    id: str = Field(primary_key=True)
    devices: list[str] = _list()
    wanted: list[dict[str, Any]] = _list()
    started_us: int = _big()
    watch_s: float
    max_alarms: int
    state: str = Field(default="watching", index=True)
    reason: str = ""
    ended_us: int | None = _big(default=None)
    traceparent: str = ""
    learning: str = ""
    canaries: int = 0
    max_false: int | None = None
    stage: int = 0
    stage_us: int = _big(default=0)
    watch_us: int | None = _big(default=None)
    backtest: dict[str, Any] = _object()
    override: str = ""


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


class PrometheusSeries(SQLModel, table=True):
    """A series that came by remote write, and the device and metric that it was given.

    `digest` is of sender and labels; `host` is where it comes from, by its labels.
    """

    __tablename__ = "prometheus_series"
    __table_args__ = (UniqueConstraint("device", "metric"), Index("prometheus_series_by_host", "sender", "host"))
    digest: str = Field(primary_key=True)
    sender: str
    host: str
    device: str
    metric: str
    labels: dict[str, Any] = _object()
    first_us: int = _big()


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


class Notification(SQLModel, table=True):
    """What one channel was told, or is still to be told, about one page (the id of its first incident).

    `wanted` and `told` are open, resolved or ''; `due_us` is when to try next, None when nothing is to be done;
    `since_us` when the wish arose that waits; `state` is waiting, told, closed or given-up.
    """

    __tablename__ = "notifications"
    __table_args__ = (UniqueConstraint("channel", "page"), Index("notifications_due", "channel", "due_us"))
    id: str = Field(primary_key=True)
    channel: str
    page: str = Field(index=True)
    device: str
    state: str = "waiting"
    wanted: str = "open"
    told: str = ""
    told_priority: str = ""
    due_us: int | None = _big(default=None)
    since_us: int = _big()
    told_us: int | None = _big(default=None)
    tries: int = 0
    error: str = ""


class RolloutDevice(SQLModel, table=True):
    """What a rollout did to one device: waiting, pushed, verified, refused, left (alone), restored or kept.

    `previous` is desired `limits` as it was, None for none; `pushed` is what took its place, in `version`.
    """

    __tablename__ = "rollout_devices"
    __table_args__ = (
        Index("rollout_devices_by_state", "rollout", "state"), Index("rollout_devices_by_device", "device"),
        {"sqlite_with_rowid": False},
    )  # fmt: skip
    rollout: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    stage: int = 0
    state: str = "waiting"
    reason: str = ""
    version: int = _big(default=0)
    previous: list[Any] | dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
    pushed: list[Any] | dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
    t_us: int = _big(default=0)


class Learning(SQLModel, table=True):
    """Series whose limits this hub learns. `target` finds the devices, `terms` say how.

    `due_us` is when the next refit begins; `refit` is how far the one under way is: its time and its last device.
    """

    __tablename__ = "learnings"
    id: str = Field(primary_key=True)
    target: str
    terms: dict[str, Any] = _object()
    who: str
    created_us: int = _big()
    scope: list[str] | None = Field(default=None, sa_column=Column(_JSON))
    due_us: int = _big(default=0)
    refit: dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
    reason: str = ""


class LearnedSeries(SQLModel, table=True):
    """One series of a learning: `limits` as fitted last, `pushed` as put into the twin, `before` that.

    `factor` widens (above 1) or tightens what was fitted, by operators' verdicts. `trial` is its backtest. A learned
    limit stands on the device since `pushed_us`.
    """

    __tablename__ = "learned_series"
    __table_args__ = (Index("learned_series_by_device", "device", "metric"), {"sqlite_with_rowid": False})
    learning: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    limits: dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
    pushed: dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
    before: dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
    trial: dict[str, Any] | None = Field(default=None, sa_column=Column(_JSON))
    factor: float = 1.0
    reason: str = ""
    fitted_us: int = _big(default=0)
    pushed_us: int | None = _big(default=None)


class LearnedState(SQLModel, table=True):
    """The live model of a group of a learning's series: packed, with the version of its form.

    `series` are what is remembered of each beside the model; `per_day` is how many samples they bring together.
    Nothing before `live_us` raises an alarm: it is only learned from.
    """

    __tablename__ = "learned_states"
    learning: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    series: list[Any] = _list()
    state: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    per_day: float = 0.0
    live_us: int = _big()


class PeerState(SQLModel, table=True):
    """Evidence beside peers of one metric of a learning: `state` packed, of these `devices` in these `services`.

    It has learned all before `upto_us`; nothing before `live_us` raises an alarm. `form` is what else it was made for.
    `standing` are its alarms: thing, alarm, device, service, calm. `left_out` says why of other devices.
    """

    __tablename__ = "peer_states"
    learning: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    form: str
    devices: list[Any] = _list()
    services: list[Any] = _list()
    left_out: dict[str, Any] = _object()
    standing: list[Any] = _list()
    state: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    upto_us: int = _big()
    live_us: int = _big()


class Trouble(SQLModel, table=True):
    """What a person says was trouble on a series, both ends included; an alarm should have told."""

    __tablename__ = "troubles"
    __table_args__ = (Index("troubles_by_series", "device", "metric", "start_us"),)
    id: str = Field(primary_key=True)
    device: str
    metric: str
    start_us: int = _big()
    end_us: int = _big()
    note: str = ""
    who: str
    t_us: int = _big()


class LimitFile(SQLModel, table=True):
    """A device's set of limits that is too large for its twin. `name` is not to be guessed: who knows it may read."""

    __tablename__ = "limit_files"
    __table_args__ = (Index("limit_files_by_device", "device", "t_us"),)
    name: str = Field(primary_key=True)
    device: str
    digest: str
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    t_us: int = _big()
