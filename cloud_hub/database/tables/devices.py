"""Devices and their twins."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import JSONS, big_integer, json_list, json_object


class Meta(SQLModel, table=True):
    """The hub's own small facts: `hub_epoch`."""

    __tablename__ = "meta"
    key: str = Field(primary_key=True)
    value: str


class Device(SQLModel, table=True):
    """A device as its last birth told. `tags` are the hub's own words about it: no device ever sees them.

    `asset_path` is what the device claims, `assigned_path` what a person said: only that counts for scopes.
    `limits_without_source` are metrics that a limit there waits for and that nothing on the device gives.
    """

    __tablename__ = "devices"
    id: str = Field(primary_key=True)
    profile: str = ""
    version: str = ""
    protocol: int = big_integer(default=1)
    asset_path: str = ""
    state: str = "offline"
    session: str = ""
    epoch: str = ""
    clock: str = ""
    metrics: list[dict[str, Any]] = json_list()
    conflict: str = ""
    tags: dict[str, Any] = json_object()
    tags_version: int = big_integer(default=0)
    born_us: int = big_integer(default=0)
    seen_us: int = big_integer(default=0)
    assigned_path: str = ""
    limits_without_source: list[str] = json_list()


class Dependency(SQLModel, table=True):
    """`subject` needs the device `depends_on` to be reached: one edge of the topology, from the tags of `device`.

    `subject` is a device, or an asset path with a '/' at its end: then all devices at or below it.
    """

    __tablename__ = "dependencies"
    __table_args__ = (
        Index("dependencies_by_subject", "subject"), Index("dependencies_by_upstream", "depends_on"),
        {"sqlite_with_rowid": False},
    )  # fmt: skip
    device: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    depends_on: str = Field(primary_key=True)


class DeviceNote(SQLModel, table=True):
    """What a person wrote about a device, for whoever works on its next incident."""

    __tablename__ = "device_notes"
    __table_args__ = (Index("device_notes_by_device", "device", "id"),)
    id: str = Field(primary_key=True)
    device: str
    text: str
    actor: str
    t_us: int = big_integer()


class RemovedDevice(SQLModel, table=True):
    """A device that was removed: nothing that it sends is taken until somebody restores it, with its path and tags."""

    __tablename__ = "removed_devices"
    device: str = Field(primary_key=True)
    removed_us: int = big_integer()
    removed_by: str
    reason: str = ""
    assigned_path: str = ""
    tags: dict[str, Any] = json_object()


class TwinRow(SQLModel, table=True):
    """One twin document; `name` '' is the classic one. `owners` has the shape of desired, with who set each leaf."""

    __tablename__ = "twins"
    device: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: int = big_integer(default=0)
    deleted: bool = True
    state: dict[str, Any] = json_object()
    marks: dict[str, Any] = json_object()
    owners: dict[str, Any] = json_object()
    timestamp: int = big_integer(default=0)


class TwinChange(SQLModel, table=True):
    """One version of a twin document: who made it, when, and the change as it was sent.

    `state` is the whole document after the change; it stands in every so many rows, the others follow by merging.
    """

    __tablename__ = "twin_changes"
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: int = big_integer(primary_key=True)
    t_us: int = big_integer()
    actor: str
    trace_id: str = ""
    verb: str
    patch: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    state: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))


class AppliedRow(SQLModel, table=True):
    """The last word of a device on one path of desired state."""

    __tablename__ = "applied"
    device: str = Field(primary_key=True)
    shadow: str = Field(primary_key=True)
    path: str = Field(primary_key=True)
    version: int = big_integer()
    state: str
    reason: str = ""
    t_us: int = big_integer()


class HighWater(SQLModel, table=True):
    """Up to where a stream of one epoch of a device is durable here. Kept for ever."""

    __tablename__ = "high_water"
    __table_args__ = (UniqueConstraint("device", "epoch", "stream"),)
    id: int | None = Field(default=None, primary_key=True)
    device: str
    epoch: str
    stream: str
    upto: int = big_integer(default=0)


class StalledStream(SQLModel, table=True):
    """A stream of a device of which nothing can be taken, since when and why."""

    __tablename__ = "stalled_streams"
    device: str = Field(primary_key=True)
    stream: str = Field(primary_key=True)
    since_us: int = big_integer()
    reason: str


class LostRange(SQLModel, table=True):
    """Items that a device accepted and will never send, with the stated reason."""

    __tablename__ = "lost"
    source: int = Field(primary_key=True, foreign_key="high_water.id")
    first: int = big_integer(primary_key=True)
    last: int = big_integer()
    reason: str
