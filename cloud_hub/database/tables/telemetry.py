"""What devices measured: samples, events, rollups, and where series came from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import big_integer, json_object


class TelemetrySample(SQLModel, table=True):
    """One sample; `source` and `seq` are its delivery identity, so that nothing is ever counted twice."""

    __tablename__ = "telemetry"
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    t_us: int = big_integer(primary_key=True)
    source: int = Field(primary_key=True)
    seq: int = big_integer(primary_key=True)
    value: float | None = None
    text: str | None = None
    quality: str = "good"


class EventRow(SQLModel, table=True):
    """One event of a device."""

    __tablename__ = "events"
    __table_args__ = (Index("events_by_device", "device", "t_us"),)
    source: int = Field(primary_key=True)
    seq: int = big_integer(primary_key=True)
    device: str
    t_us: int = big_integer()
    origin: str
    level: str
    text: str
    fields: dict[str, Any] = json_object()
    trace_id: str = ""


class EscalationRow(SQLModel, table=True):
    """One frame that a gate would not keep, and the expert's answer once it is there."""

    __tablename__ = "escalations"
    __table_args__ = (Index("escalations_by_model", "device", "model", "received_us"),)
    id: str = Field(primary_key=True)
    device: str
    model: str
    digest: str
    number: int = big_integer()
    reason: str
    label: str
    margin: float
    height: int
    width: int
    channels: int = 1
    dtype: str = "uint8"
    color: str = "gray"
    frame: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    features: dict[str, float] = json_object()
    t_us: int = big_integer()
    received_us: int = big_integer()
    wire_bytes: int = 0
    trace_id: str = ""
    answer: str | None = Field(default=None, index=True)
    confidence: float | None = None
    expert: str = ""
    cost: float = 0.0
    answered_us: int | None = big_integer(default=None)


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
    labels: dict[str, Any] = json_object()
    first_us: int = big_integer()


class RollupDue(SQLModel, table=True):
    """An hour of a device whose samples changed since its rollups were made; `changes` counts how often."""

    __tablename__ = "rollup_due"
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    t_us: int = big_integer(primary_key=True)
    changes: int = big_integer(default=1)


class Rollup(SQLModel, table=True):
    """Count, lowest, highest and mean of each bucket of `step_s` seconds, packed (rollups/buckets.py).

    A row holds the minutes of an hour, the hours of a day, or one day, from `t_us` on. With a rowid: without one
    SQLite gives each row of more than 1,000 bytes a page of its own.
    """

    __tablename__ = "rollups"
    step_s: int = Field(primary_key=True)
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    t_us: int = big_integer(primary_key=True)
    buckets: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class SketchRow(SQLModel, table=True):
    """The distribution of one hour or day of a series (rollups/sketches.py)."""

    __tablename__ = "sketches"
    step_s: int = Field(primary_key=True)
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    t_us: int = big_integer(primary_key=True)
    sketch: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class RetentionStart(SQLModel, table=True):
    """From when on all samples, minutes, hours and sketches of hours of a series are kept.

    What is older went, and came into the next coarser.
    """

    __tablename__ = "kept_from"
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    raw_us: int = big_integer(default=0)
    minute_us: int = big_integer(default=0)
    hour_us: int = big_integer(default=0)
    sketch_us: int = big_integer(default=0)
