"""/api/v1/escalations and /api/v1/experts: frames that edge models escalated, and how experts answer them."""

from __future__ import annotations

from collections.abc import Set
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlmodel import case, col, func, select

from cloud_hub.api.dependencies import Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import EscalationRow, FailedItem
from cloud_hub.inference.experts import coverage

router = APIRouter(prefix="/api/v1", tags=["escalations"])


class EscalationView(BaseModel):
    """An escalation without its frame."""

    id: str
    device: str
    model: str
    number: int
    reason: str
    label: str
    margin: float
    answer: str | None
    confidence: float | None
    expert: str
    cost: float
    t_us: int
    received_us: int
    answered_us: int | None
    wire_bytes: int


@router.get("/escalations")
def escalations(
    hub: TheHub, caller: Reader, device: str = "", model: str = "", since_us: int = 0, limit: int = 1000
) -> list[EscalationView]:
    """List escalations by time of receipt: the oldest `limit` (at most 50,000) since `since_us`."""
    query = select(EscalationRow).where(col(EscalationRow.received_us) > min(max(since_us, 0), 1 << 62))
    if device:
        query = query.where(EscalationRow.device == device)
    if model:
        query = query.where(EscalationRow.model == model)
    query = query.order_by(col(EscalationRow.received_us), EscalationRow.id).limit(min(max(limit, 1), 50_000))
    with hub.db.read(scope=caller.scope) as session:
        rows = session.exec(scopes.restrict(session, query, col(EscalationRow.device)))
        return [EscalationView(**row.model_dump(exclude={"frame", "features"})) for row in rows]


class ExpertView(BaseModel):
    """How a model's escalations are answered. Times are from receipt to answer, `cost` by the prices of the pool.

    `hint` says what is missing when no expert is configured for the model. `failed` are those waiting whose last try
    failed. A configured expert without escalations has a row of zeros.
    """

    model: str
    expert: str
    waiting: int
    answered: int
    without_label: int
    failed: int
    mean_s: float | None
    longest_s: float | None
    cost: float
    hint: str = ""


@router.get("/experts")
def experts(
    hub: TheHub, caller: Reader, hours: Annotated[float, Query(ge=0.01, le=720, allow_inf_nan=False)] = 1.0
) -> list[ExpertView]:
    """Load, latency and cost by model and expert, of escalations received in the last `hours`."""
    since_us = now_us() - int(hours * 3_600_000_000)
    took: Any = col(EscalationRow.answered_us) - col(EscalationRow.received_us)
    query: Any = (
        select(
            EscalationRow.model, EscalationRow.expert, func.count(), func.count(col(EscalationRow.answer)),
            func.sum(case((col(EscalationRow.answer) == "", 1), else_=0)), func.avg(took), func.max(took),
            func.sum(EscalationRow.cost), func.count(col(FailedItem.id)),
        )  # type: ignore[call-overload]
        .join(
            FailedItem, (col(FailedItem.item) == EscalationRow.id) & (col(FailedItem.kind) == "escalation"),
            isouter=True,
        )
        .where(col(EscalationRow.received_us) > since_us)
        .group_by(EscalationRow.model, EscalationRow.expert)
        .order_by(EscalationRow.model, EscalationRow.expert)
    )  # fmt: skip
    with hub.db.read(scope=caller.scope) as session:
        rows = session.exec(scopes.restrict(session, query, col(EscalationRow.device))).all()
    known = coverage.configured(hub.settings.experts)
    idle = sorted(known - {row[0] for row in rows})
    unused = [_expert(known, model, "", 0, 0, 0, None, None, 0.0, 0) for model in idle]
    return [_expert(known, *row) for row in rows] + unused


def _expert(
    known: Set[str], model: str, expert: str, count: int, answered: int, unlabelled: int, mean_us: Any,
    longest_us: Any, cost: float, failed: int,
) -> ExpertView:  # fmt: skip
    return ExpertView(
        hint=coverage.hint(model) if not expert and model not in known else "",
        model=model, expert=expert, waiting=count - answered, answered=answered, without_label=unlabelled,
        failed=failed,
        mean_s=None if mean_us is None else float(mean_us) / 1e6,
        longest_s=None if longest_us is None else float(longest_us) / 1e6, cost=cost or 0.0,
    )  # fmt: skip
