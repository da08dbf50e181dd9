"""Tables of playbooks: runs and their journals."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import JSONS, TEXT_JSON, big_integer, json_list, json_object


class PlaybookRun(SQLModel, table=True):
    """One run of a playbook. `plan` is what it does (`playbooks.core.plan`), whatever becomes of the files; `progress`
    is how its steps stand, as the journal says.

    `state` is proposed, refused, running, stopping, succeeded, failed or cancelled. It is looked at again at `next_us`,
    and at any time while it `awaits` an action. `entries` counts its journal. `origin` is person or diagnosis, `actor`
    the name of that person or engine. With `scope`, only callers within it see the run.
    """

    __tablename__ = "playbook_runs"
    __table_args__ = (
        Index("playbook_runs_active", "state", "deadline_us"), Index("playbook_runs_by_incident", "incident"),
    )  # fmt: skip
    id: str = Field(primary_key=True)
    playbook: str
    version: str
    state: str = "proposed"
    reason: str = ""
    plan: dict[str, Any] = Field(sa_column=Column(TEXT_JSON, nullable=False))
    progress: dict[str, Any] = json_object()
    verdicts: list[dict[str, Any]] = json_list()
    approvals: list[dict[str, Any]] = json_list()
    incident: str = ""
    origin: str = "person"
    actor: str
    entries: int = 0
    awaits: bool = False
    next_us: int = big_integer(default=0)
    deadline_us: int = big_integer(default=0)
    created_us: int = big_integer()
    ended_us: int | None = big_integer(default=None)
    traceparent: str = ""
    scope: list[str] | None = Field(default=None, sa_column=Column(JSONS))


class PlaybookEntry(SQLModel, table=True):
    """One entry of a run's journal, written in the transaction of what it says."""

    __tablename__ = "playbook_entries"
    __table_args__ = ({"sqlite_with_rowid": False},)
    run: str = Field(primary_key=True)
    seq: int = Field(primary_key=True)
    t_us: int = big_integer()
    step: str
    kind: str
    data: dict[str, Any] = json_object()
