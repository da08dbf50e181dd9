"""The inference gateway: queued tasks, daily usage, and what is kept of requests."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import JSONS, TEXT_JSON, big_integer, json_object


class InferenceTask(SQLModel, table=True):
    """A request that is answered some time before `deadline_us`; `answer` is the engine's body.

    States: queued, running, succeeded, failed, expired, cancelled. `webhook_state`: '' without one, pending, delivered
    or failed. It is tried again at `next_us`.
    """

    __tablename__ = "inference_tasks"
    __table_args__ = (
        Index("inference_tasks_by_state", "state", "deadline_us"), Index("inference_tasks_by_actor", "actor", "id"),
        Index("inference_tasks_by_webhook", "webhook_state"),
    )  # fmt: skip
    id: str = Field(primary_key=True)
    actor: str
    scope: list[str] | None = Field(default=None, sa_column=Column(JSONS))
    request_class: str
    body: dict[str, Any] = Field(sa_column=Column(TEXT_JSON, nullable=False))
    webhook: str = ""
    webhook_state: str = ""
    state: str = "queued"
    attempts: int = 0
    reason: str = ""
    answer: dict[str, Any] | None = Field(default=None, sa_column=Column(TEXT_JSON))
    pool: str = ""
    created_us: int = big_integer()
    deadline_us: int = big_integer()
    next_us: int = big_integer()
    ended_us: int | None = big_integer(default=None)
    traceparent: str = ""


class InferenceUsage(SQLModel, table=True):
    """What a subject used on one day (days since 1970, UTC)."""

    __tablename__ = "inference_usage"
    __table_args__ = ({"sqlite_with_rowid": False},)
    day: int = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    requests: int = big_integer(default=0)
    tokens_in: int = big_integer(default=0)
    tokens_out: int = big_integer(default=0)
    seconds: float = 0.0
    money: float = 0.0


class InferenceRecord(SQLModel, table=True):
    """What is kept of one request. `prompt` (redacted) and `answer` only with `inference.keep = "texts"`."""

    __tablename__ = "inference_records"
    __table_args__ = (Index("inference_records_by_time", "t_us"),)
    id: str = Field(primary_key=True)
    t_us: int = big_integer()
    tenant: str
    device: str = ""
    request_class: str
    pool: str = ""
    model: str = ""
    outcome: str
    reason: str = ""
    cached: str = ""
    attempts: int = 0
    wait_s: float = 0.0
    first_s: float | None = None
    took_s: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0
    redactions: dict[str, Any] = json_object()
    traceparent: str = ""
    prompt: dict[str, Any] | None = Field(default=None, sa_column=Column(TEXT_JSON))
    answer: str | None = None


class AskTurn(SQLModel, table=True):
    """A question about the fleet and its answer. `device` is the one that it was about, '' for none or several."""

    __tablename__ = "ask_turns"
    __table_args__ = (Index("ask_turns_by_session", "session", "actor", "id"), Index("ask_turns_by_time", "t_us"))
    id: str = Field(primary_key=True)
    session: str
    actor: str
    t_us: int = big_integer()
    question: str
    text: str
    device: str = ""
    author: str
    engine: str
    answer: dict[str, Any] = Field(sa_column=Column(TEXT_JSON, nullable=False))
