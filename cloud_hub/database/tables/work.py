"""What the hub does to devices: commands, jobs, configurations, actions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import JSONS, big_integer, json_list, json_object


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
    args: dict[str, Any] = json_object()
    mode: str = "direct"
    actor: str = ""
    state: str = "sent"
    progress: float | None = None
    text: str = ""
    output: dict[str, Any] = json_object()
    created_us: int = big_integer()
    expires_us: int = big_integer()
    heard_us: int | None = big_integer(default=None)
    cancelled_us: int | None = big_integer(default=None)
    done_us: int | None = big_integer(default=None)
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
    content: dict[str, Any] = json_object()
    actor: str
    state: str = "scheduled"
    reason: str = ""
    created_us: int = big_integer()
    start_us: int = big_integer()
    deadline_us: int = big_integer()
    ended_us: int | None = big_integer(default=None)
    traceparent: str = ""
    scope: list[str] | None = Field(default=None, sa_column=Column(JSONS))


class JobDevice(SQLModel, table=True):
    """What a job did to one device."""

    __tablename__ = "job_devices"
    __table_args__ = (Index("job_devices_by_state", "job", "state"), {"sqlite_with_rowid": False})
    job: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    state: str = "pending"
    reason: str = ""
    version: int | None = big_integer(default=None)
    command: str = ""
    t_us: int = big_integer()


class Configuration(SQLModel, table=True):
    """Desired state for every device that a query finds; the highest priority wins each path, then the newest.

    With `scope` only devices below these asset paths are found, whatever the target says.
    """

    __tablename__ = "configurations"
    id: str = Field(primary_key=True)
    priority: int = big_integer(default=0)
    target: str
    content: dict[str, Any] = json_object()
    metrics: dict[str, Any] = json_object()
    labels: dict[str, Any] = json_object()
    actor: str
    created_us: int = big_integer()
    scope: list[str] | None = Field(default=None, sa_column=Column(JSONS))


class ConfigurationDevice(SQLModel, table=True):
    """How one configuration stands on one of its devices: applied, overridden or in conflict, and where."""

    __tablename__ = "configuration_devices"
    __table_args__ = (
        Index("configuration_devices_by_device", "device"), {"sqlite_with_rowid": False},
    )  # fmt: skip
    configuration: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    state: str
    conflicts: list[dict[str, Any]] = json_list()
    t_us: int = big_integer()


class Action(SQLModel, table=True):
    """An action on its way: proposed, approved, executing, executed, verified, failed, refused or cancelled.

    `detail` is the first of the type's details and `operation` its first part, by which cooldowns count. `automatic`:
    policy approved it, no person did. `rule` and `policy` are the policy's rule and reason, `approvals` who approved
    with which roles, of `approvals_needed`. `before` and `effect` are what its type needs to verify and undo it.
    `started_us` is when it was approved, later when its execution began.
    """

    __tablename__ = "actions"
    __table_args__ = (
        Index("actions_by_device", "device", "changed_us"), Index("actions_by_state", "state"),
        Index("actions_by_rule", "rule", "started_us"), Index("actions_by_time", "created_us"),
        Index("actions_by_key", "idempotency_key", unique=True), Index("actions_by_run", "playbook_run"),
    )  # fmt: skip
    id: str = Field(primary_key=True)
    idempotency_key: str
    incident: str = Field(default="", index=True)
    device: str = ""
    type: str
    parameters: dict[str, Any] = json_object()
    detail: str = ""
    operation: str = ""
    risk: str = "high"
    reason: str = ""
    origin: str = "diagnosis"
    proposer: str = ""
    scope: list[str] | None = Field(default=None, sa_column=Column(JSONS))
    state: str = "proposed"
    rule: str = ""
    policy: str = ""
    automatic: bool = False
    approvals_needed: int = 0
    approvals: list[dict[str, Any]] = json_list()
    before: dict[str, Any] = json_object()
    effect: dict[str, Any] = json_object()
    command: str = ""
    outcome: str = ""
    attempts: int = 0
    next_us: int = big_integer(default=0)
    undo_of: str = ""
    playbook_run: str = ""
    step: str = ""
    created_us: int = big_integer(default=0)
    started_us: int = big_integer(default=0)
    changed_us: int = big_integer()
    traceparent: str = ""
