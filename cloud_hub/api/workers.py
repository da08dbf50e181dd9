"""/api/v1/workers: the hub's background workers, and the items that they could not do."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database.tables import FailedItem
from cloud_hub.runtime import items
from cloud_hub.runtime.worker import State, WorkerStatus

router = APIRouter(prefix="/api/v1", tags=["workers"])


class WorkerView(BaseModel):
    """One background worker. `error` is what its last run failed with; `parked` items wait for a person, `retrying`
    ones are tried again by themselves.
    """

    name: str
    state: State
    runs: int
    failed_runs: int
    failing_since_us: int | None
    error: str
    started_us: int | None
    succeeded_us: int | None
    parked: int
    retrying: int


def _view(status: WorkerStatus, parked: int, retrying: int) -> WorkerView:
    return WorkerView(
        name=status.name, state=status.state, runs=status.runs, failed_runs=status.failed_runs,
        failing_since_us=status.failing_since_us, error=status.error, started_us=status.started_us,
        succeeded_us=status.succeeded_us, parked=parked, retrying=retrying,
    )  # fmt: skip


@router.get("/workers")
def workers(hub: TheHub, caller: Reader) -> list[WorkerView]:
    """All of them, by name."""
    caller.needs_all()
    with hub.db.read() as session:
        failed = items.counts(session)
    ordered = sorted(hub.workers(), key=lambda one: one.name)
    return [_view(one, *failed.get(one.name, (0, 0))) for one in ordered]


@router.get("/workers/items")
def failed_items(
    hub: TheHub, caller: Reader, worker: str = "", parked: bool = False, limit: int = 100
) -> list[FailedItem]:  # fmt: skip
    """Items that failed, newest first; `parked`: only those that wait for a person."""
    caller.needs_all()
    with hub.db.read() as session:
        return items.list_failed(session, worker, parked=parked, limit=min(max(limit, 1), 1000))


@router.post("/workers/items/{item_id}/retry")
def retry(hub: TheHub, caller: Operator, item_id: str) -> FailedItem:
    """Try it again now, as if it had never failed."""
    caller.needs_all()
    with hub.db.write() as session:
        row = items.retry(session, item_id, now_us(), caller.actor, caller.trace)
    hub.notify(row.worker)
    return row
