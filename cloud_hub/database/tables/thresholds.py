"""Tables of learning jobs, rollouts of limits, monitoring state and missed faults."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import JSONS, big_integer, json_list, json_object


class Rollout(SQLModel, table=True):
    """Limits that are pushed to canary devices, then to the rest, until they are confirmed or rolled back.

    A manual rollout pushes `wanted` to all `devices` in one stage. A rollout of a `learning` pushes each device's own
    limits in two stages. `stage_us` is the latest push of the stage; `watch_us` is when observation started, because
    enough of its devices had the limits in force.
    """

    __tablename__ = "rollouts"
    id: str = Field(primary_key=True)
    devices: list[str] = json_list()
    wanted: list[dict[str, Any]] = json_list()
    started_us: int = big_integer()
    watch_s: float
    max_alarms: int
    state: str = Field(default="watching", index=True)
    reason: str = ""
    ended_us: int | None = big_integer(default=None)
    traceparent: str = ""
    learning: str = ""
    canaries: int = 0
    max_false_alarms: int | None = None
    stage: int = 0
    stage_us: int = big_integer(default=0)
    watch_us: int | None = big_integer(default=None)
    backtest: dict[str, Any] = json_object()
    override: str = ""


class RolloutDevice(SQLModel, table=True):
    """State of one device in a rollout: waiting, pushed, verified, refused, left (unchanged), restored or kept.

    `previous` is the desired `limits` before the push, None for none; `pushed` replaced it, in twin version `version`.
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
    version: int = big_integer(default=0)
    previous: list[Any] | dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    pushed: list[Any] | dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    t_us: int = big_integer(default=0)


class LearningJob(SQLModel, table=True):
    """A set of series whose limits this hub learns. `target` selects the devices, `policy` sets how they are learned.

    `due_us` is when the next refit starts; `refit` is the progress of the running one: its start and its last device.
    """

    __tablename__ = "learning_jobs"
    id: str = Field(primary_key=True)
    target: str
    policy: dict[str, Any] = json_object()
    actor: str
    created_us: int = big_integer()
    scope: list[str] | None = Field(default=None, sa_column=Column(JSONS))
    due_us: int = big_integer(default=0)
    refit: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    reason: str = ""


class LearnedSeries(SQLModel, table=True):
    """One series of a learning job: `limits` of the last fit, `pushed` to the twin, and those pushed `before` that.

    `factor` widens (above 1) or tightens the fitted limits, by operators' verdicts. `trial` is its backtest. The
    device has had a learned limit since `pushed_us`.
    """

    __tablename__ = "learned_series"
    __table_args__ = (Index("learned_series_by_device", "device", "metric"), {"sqlite_with_rowid": False})
    learning: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    limits: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    pushed: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    before: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    trial: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    factor: float = 1.0
    reason: str = ""
    fitted_us: int = big_integer(default=0)
    pushed_us: int | None = big_integer(default=None)


class LearnedState(SQLModel, table=True):
    """Live monitoring state of a group of a learning job's series: the packed score model, with its format version.

    `series` is the `SeriesState` of each series; `per_day` is the number of samples a day of all of them. Samples
    before `live_us` train the model and raise no alarm. `raised` is the correction of the threshold, in decades above
    the nominal one, by the number of alarms that came; `paged_us` is the start of the last episode counted.
    """

    __tablename__ = "learned_states"
    learning: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    series: list[Any] = json_list()
    state: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    per_day: float = 0.0
    live_us: int = big_integer()
    raised: float = 0.0
    paged_us: int = big_integer(default=0)


class PeerState(SQLModel, table=True):
    """Peer comparison of one metric of a learning job: the packed `state` of these `devices` in these `services`.

    Samples before `upto_us` have been processed; those before `live_us` raise no alarm. `form` identifies the settings
    that the state was made for. `standing` are the active alarms. `left_out` has the reason for each excluded device.
    """

    __tablename__ = "peer_states"
    learning: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    form: str
    devices: list[Any] = json_list()
    services: list[Any] = json_list()
    left_out: dict[str, Any] = json_object()
    standing: list[Any] = json_list()
    state: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    upto_us: int = big_integer()
    live_us: int = big_integer()


class MissedFault(SQLModel, table=True):
    """A fault of a series that a person reported and no alarm raised; both ends are included."""

    __tablename__ = "troubles"
    __table_args__ = (Index("troubles_by_series", "device", "metric", "start_us"),)
    id: str = Field(primary_key=True)
    device: str
    metric: str
    start_us: int = big_integer()
    end_us: int = big_integer()
    note: str = ""
    actor: str
    t_us: int = big_integer()


class LimitFile(SQLModel, table=True):
    """A device's set of limits that is too large for its twin. `name` is a secret that grants read access."""

    __tablename__ = "limit_files"
    __table_args__ = (Index("limit_files_by_device", "device", "t_us"),)
    name: str = Field(primary_key=True)
    device: str
    digest: str
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    t_us: int = big_integer()
