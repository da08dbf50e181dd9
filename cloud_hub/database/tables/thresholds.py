"""What was learned, and how it is pushed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import JSONS, big_integer, json_list, json_object


class Rollout(SQLModel, table=True):
    """Limits pushed to canary devices, then to the rest, until it is confirmed or taken back.

    By hand: `wanted` for all `devices` in one stage. Of a `learning`: each device its own, in two stages.
    `stage_us` is the latest push of the stage, `watch_us` since when enough of its devices have it in force.
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
    version: int = big_integer(default=0)
    previous: list[Any] | dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    pushed: list[Any] | dict[str, Any] | None = Field(default=None, sa_column=Column(JSONS))
    t_us: int = big_integer(default=0)


class Learning(SQLModel, table=True):
    """Series whose limits this hub learns. `target` finds the devices, `terms` say how.

    `due_us` is when the next refit begins; `refit` is how far the one under way is: its time and its last device.
    """

    __tablename__ = "learnings"
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
    """One series of a learning: `limits` as fitted last, `pushed` as put into the twin, `before` that.

    `factor` widens (above 1) or tightens what was fitted, by operators' verdicts. `trial` is its backtest. A learned
    limit stands on the device since `pushed_us`.
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
    """The live model of a group of a learning's series: packed, with the version of its form.

    `series` are what is remembered of each beside the model; `per_day` is how many samples they bring together.
    Nothing before `live_us` raises an alarm: it is only learned from. Its threshold is `raised` by so many decades
    above the budget's arithmetic, by what came of it, lastly at `paged_us`.
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
    """Evidence beside peers of one metric of a learning: `state` packed, of these `devices` in these `services`.

    It has learned all before `upto_us`; nothing before `live_us` raises an alarm. `form` is what else it was made for.
    `standing` are its alarms: thing, alarm, device, service, calm. `left_out` says why of other devices.
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
    """What a person says was trouble on a series, both ends included; an alarm should have told."""

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
    """A device's set of limits that is too large for its twin. `name` is not to be guessed: who knows it may read."""

    __tablename__ = "limit_files"
    __table_args__ = (Index("limit_files_by_device", "device", "t_us"),)
    name: str = Field(primary_key=True)
    device: str
    digest: str
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    t_us: int = big_integer()
