"""Tables of the autoscaler: its targets, every decision with its inputs, and the lease of the hub that acts.

Columns of JSON text hold what `autoscale.core` encodes, kept as written so that a decision can be replayed.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import big_integer, json_list, json_object


class ScaleTarget(SQLModel, table=True):
    """One target and how it stands. It stays when the target leaves the targets file.

    `platform` names what is scaled. `state` is the policy's memory (JSON text). `mode` is auto, paused or override,
    until `until_us` (None: until somebody resumes); `override_count` goes with override. `desired` and `ready` are the
    platform's instances when last read, `expected` what this hub set or saw before, `wanted` the last decision's.
    `keeps` of them may take work: the others drain.
    `errors` says by signal, or for `platform`, why something is unknown. `drift` says that somebody else changed the
    count. `backtest` is the last verdict on prediction.
    """

    __tablename__ = "autoscale_targets"
    name: str = Field(primary_key=True)
    platform: str = ""
    policy: str = ""
    state: str = "{}"
    mode: str = "auto"
    override_count: int | None = None
    until_us: int | None = big_integer(default=None)
    control_by: str = ""
    control_reason: str = ""
    dry_run: bool = False
    desired: int | None = None
    ready: int | None = None
    expected: int | None = None
    wanted: int | None = None
    keeps: int | None = None
    reason: str = ""
    decision: str = ""
    readings: list[dict[str, Any]] = json_list()
    errors: dict[str, str] = json_object()
    drift: str = ""
    drift_us: int | None = big_integer(default=None)
    backtest: dict[str, Any] = json_object()
    decided_us: int = big_integer(default=0)


class ScalePolicy(SQLModel, table=True):
    """A policy that decisions were made with (JSON text), by the SHA-256 of its text."""

    __tablename__ = "autoscale_policies"
    digest: str = Field(primary_key=True)
    content: str
    first_us: int = big_integer()


class ScaleDecision(SQLModel, table=True):
    """One decision with its inputs: policy, state before, observation, control.

    `outcome` is held, dry-run, decided (the platform's call is under way), done, refused or unknown. `key` is the
    idempotency key of the call; retries have the same. `fencing_token` is the lease of the hub that decided.
    """

    __tablename__ = "autoscale_decisions"
    __table_args__ = (
        Index("autoscale_decisions_by_target", "target", "id"), Index("autoscale_decisions_by_key", "key"),
        Index("autoscale_decisions_by_action", "action", "t_us"),
    )  # fmt: skip
    id: str = Field(primary_key=True)
    target: str
    t_us: int = big_integer()
    action: str
    before: int | None = None
    to: int
    reason: str
    key: str = ""
    fencing_token: int | None = big_integer(default=None)
    policy: str
    control: str
    state: str
    observation: str
    decision: str
    errors: dict[str, str] = json_object()
    outcome: str = "held"
    outcome_text: str = ""
    ended_us: int | None = big_integer(default=None)


class Lease(SQLModel, table=True):
    """Which hub of a database may act. `token` grows with each change of the holder; `renewals` with each renewal."""

    __tablename__ = "leases"
    name: str = Field(primary_key=True)
    holder: str
    token: int = big_integer()
    renewals: int = big_integer(default=0)
