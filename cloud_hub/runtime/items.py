"""Runs the items of a worker one by one, each in its own transaction, so that a bad item does not block others.

An item that fails is retried with back-off; after `TRIES` failures it is parked until a person retries it. Failures are
stored in the database and survive a restart. `NotReady` is not the item's fault: no further item is tried in this run,
and `result` passes it to the worker, which first publishes what was committed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, String, cast, func, or_, true
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import FailedItem
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import WorkResult
from shared.errors import NotReady

log = logging.getLogger(__name__)

TRIES = 5
"""Failures after which an item is parked."""
FIRST_WAIT_S, FACTOR = 1.0, 4.0
"""Wait after the first failure, and its growth: an item is parked about 85 s after its first failure."""
LONGEST_TEXT = 500

_T = TypeVar("_T")
_K = TypeVar("_K")


def wait_us(failures: int) -> int:
    """The back-off in microseconds after this many failures."""
    return int(FIRST_WAIT_S * FACTOR ** (failures - 1) * 1e6)


def text_of(error: BaseException) -> str:
    """An error as text that every database stores: without the NUL or lone surrogates that device text may hold."""
    return storable(f"{type(error).__name__}: {error}")


def storable(text: str) -> str:
    """A text from outside as every database stores it."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:LONGEST_TEXT]


class WorkItems:
    """The items of `worker` in one run, which started at `now_us`."""

    def __init__(self, db: Database, worker: str, now_us: int) -> None:
        self._db, self._worker, self._now_us = db, worker, now_us
        with db.read() as session:
            rows = session.exec(select(FailedItem).where(FailedItem.worker == worker))
            self._failed = {(row.kind, row.item): row for row in rows}
        self.not_ready: NotReady | None = None

    def result(
        self, *, again: bool = False, messages: Sequence[OutgoingMessage] = (), changed: Collection[str] = (),
        wake: Collection[str] = (),
    ) -> WorkResult:  # fmt: skip
        """The result of the run, for the worker."""
        stopped = self.not_ready is not None
        return WorkResult(again=again and not stopped, messages=messages, changed=changed, wake=wake,
                          not_ready=self.not_ready)  # fmt: skip

    def due(self, kind: str, item: str) -> bool:
        """Whether the item may be tried now: it is neither parked nor waiting for its next try."""
        row = self._failed.get((kind, item))
        if self.not_ready is not None:
            return False
        return row is None or (row.parked_us is None and row.next_us <= self._now_us)

    def ready(self, kind: str, *columns: Any) -> ColumnElement[bool]:
        """`due` as an SQL condition, for lists that are read in pages. Several columns are joined by `/`."""
        if not self._failed:
            return true()
        name: Any = cast(columns[0], String)
        for column in columns[1:]:
            name = name + "/" + cast(column, String)
        held = select(FailedItem.item).where(
            FailedItem.worker == self._worker, FailedItem.kind == kind,
            or_(col(FailedItem.parked_us).is_not(None), col(FailedItem.next_us) > self._now_us),
        )  # fmt: skip
        wanted: ColumnElement[bool] = name.not_in(held)
        return wanted

    def run(self, kind: str, item: str, do: Callable[[], _T]) -> _T | None:
        """Run one item if it is due. If it raises, the error is stored and None returned."""
        if not self.due(kind, item):
            return None
        try:
            result = do()
        except NotReady as error:
            self.not_ready = error
            return None
        except Exception as error:
            log.exception("worker.item_failed", extra={"fields": self._fields(kind, item)})
            self._fail(kind, item, error)
            return None
        self._succeed(kind, item)
        return result

    def batch(
        self, kind: str, items: Sequence[_K], do: Callable[[Sequence[_K]], _T], key: Callable[[_K], str] = str
    ) -> list[_T]:
        """Run items together, which is cheaper. If that fails, each half runs alone, down to the bad item."""
        due = [item for item in items if self.due(kind, key(item))]
        return self._halves(kind, due, do, key) if due else []

    def _halves(
        self, kind: str, items: Sequence[_K], do: Callable[[Sequence[_K]], _T], key: Callable[[_K], str]
    ) -> list[_T]:
        if self.not_ready is not None:
            return []
        if len(items) == 1:
            found = self.run(kind, key(items[0]), lambda: do(items))
            return [] if found is None else [found]
        try:
            result = do(items)
        except NotReady as error:
            self.not_ready = error
            return []
        except Exception as error:  # noqa: BLE001 - the bad item is logged with its trace when it fails alone
            fields = self._fields(kind, "") | {"items": len(items), "error": text_of(error)}
            log.warning("worker.batch_split", extra={"fields": fields})
            middle = len(items) // 2
            return self._halves(kind, items[:middle], do, key) + self._halves(kind, items[middle:], do, key)
        for item in items:
            self._succeed(kind, key(item))
        return [result]

    # -- failures ------------------------------------------------------------------------------------

    def _fields(self, kind: str, item: str) -> dict[str, Any]:
        return {"worker": self._worker, "kind": kind, "item": item}

    def _fail(self, kind: str, item: str, error: Exception) -> None:
        old = self._failed.get((kind, item))
        failures = 1 if old is None else old.failures + 1
        parked = failures >= TRIES
        row = FailedItem(
            id=new_id() if old is None else old.id, worker=self._worker, kind=kind, item=item, failures=failures,
            error=text_of(error), first_us=self._now_us if old is None else old.first_us,
            next_us=self._now_us + wait_us(failures), parked_us=self._now_us if parked else None,
        )  # fmt: skip
        with self._db.write() as session:
            session.merge(row)
            if parked:
                trail.add(session, self._now_us, "hub", "worker.item-parked", f"{self._worker} {kind}",
                          item=item, failures=failures, error=row.error)  # fmt: skip
        self._failed[kind, item] = row
        if parked:
            log.error("worker.item_parked", extra={"fields": self._fields(kind, item) | {"error": row.error}})

    def _succeed(self, kind: str, item: str) -> None:
        row = self._failed.pop((kind, item), None)
        if row is None:
            return
        with self._db.write() as session:
            stored = session.get(FailedItem, row.id)
            if stored is not None:
                session.delete(stored)
        log.info("worker.item_recovered", extra={"fields": self._fields(kind, item)})


# -- for operators ----------------------------------------------------------------------------------


def list_failed(session: Session, worker: str, *, parked: bool, limit: int) -> list[FailedItem]:
    """Failed items, the newest failure first; `parked` selects parked ones only, worker '' all workers."""
    query = select(FailedItem).order_by(col(FailedItem.next_us).desc(), FailedItem.id).limit(limit)
    if worker:
        query = query.where(FailedItem.worker == worker)
    return list(session.exec(query.where(col(FailedItem.parked_us).is_not(None)) if parked else query))


def counts(session: Session) -> dict[str, tuple[int, int]]:
    """(parked, waiting for the next try) by worker."""
    query = select(FailedItem.worker, func.count(), func.count(col(FailedItem.parked_us))).group_by(FailedItem.worker)
    return {worker: (parked, count - parked) for worker, count, parked in session.exec(query)}


def retry(session: Session, number: str, now_us: int, actor: str, trace: str) -> FailedItem:
    """Clear the failure, so that the worker retries the item at once; HubError 404."""
    row = session.get(FailedItem, number)
    if row is None:
        raise HubError(404, "No such item", f"'{number[:80]}' is no item that failed; it may have succeeded since")
    session.delete(row)
    trail.add(session, now_us, actor, "worker.item-retried", f"{row.worker} {row.kind}", trace=trace, item=row.item,
              failures=row.failures, error=row.error)  # fmt: skip
    return row
