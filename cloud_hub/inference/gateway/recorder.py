"""Hands what the gateway wants to store to a background worker: usage, kept requests, audit.

The event loop only appends to a bounded queue. While the queue is full the gateway refuses requests, so that nothing
goes unaccounted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import delete, insert
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.clock import new_id, now_us
from cloud_hub.database.sessions import Database, is_content_error
from cloud_hub.database.tables import InferenceRecord, InferenceUsage
from cloud_hub.inference.gateway.calls import Call, Outcome
from cloud_hub.inference.gateway.core.budgets import DAY_US, Subject, Usage
from cloud_hub.runtime.worker import NOTHING, WorkResult

log = logging.getLogger(__name__)

MAX_PENDING = 20_000
BATCH = 2000
LONGEST_ANSWER = 1 << 20
Keep = Literal["nothing", "usage", "texts"]
_RECORDS: Any = InferenceRecord.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class _Audit:
    t_us: int
    call: Call
    kind: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Used:
    day: int
    subjects: tuple[Subject, ...]
    usage: Usage


_Record: TypeAlias = dict[str, Any]
_Entry: TypeAlias = _Audit | _Used | _Record


class Recorder:
    """The queue, and the worker's side of it."""

    def __init__(self, db: Database, *, keep: Keep, keep_days: float) -> None:
        self._db, self._keep, self._keep_us = db, keep, int(keep_days * DAY_US)
        self._pending: deque[_Entry] = deque()

    @property
    def has_room(self) -> bool:
        """Whether more can be recorded."""
        return len(self._pending) < MAX_PENDING

    # -- the event loop's side -----------------------------------------------------------------------

    def audit(self, call: Call, kind: str, **detail: Any) -> None:
        """Add a row to the audit trail."""
        self._pending.append(_Audit(now_us(), call, kind, detail))

    def usage(self, day: int, subjects: tuple[Subject, ...], usage: Usage) -> None:
        """Add to the usage of the day."""
        self._pending.append(_Used(day, subjects, usage))

    def request(self, call: Call, outcome: Outcome, answer: bytes) -> None:
        """Keep a request as configured."""
        if self._keep == "nothing":
            return
        texts = self._keep == "texts"
        self._pending.append({
            "id": new_id(), "t_us": now_us(), "tenant": call.tenant, "device": call.device,
            "request_class": call.request_class, "pool": outcome.pool, "model": outcome.model,
            "outcome": outcome.state, "reason": outcome.reason, "cached": outcome.cached,
            "attempts": outcome.attempts, "wait_s": outcome.wait_s, "first_s": outcome.first_s,
            "took_s": outcome.took_s, "tokens_in": outcome.tokens_in, "tokens_out": outcome.tokens_out,
            "money": outcome.money, "redactions": outcome.redactions, "traceparent": call.trace,
            "prompt": (outcome.prompt or call.body) if texts else None,
            "answer": answer[:LONGEST_ANSWER].decode("utf-8", "replace").replace("\0", "\ufffd") if texts else None,
        })  # fmt: skip

    # -- the worker's side ---------------------------------------------------------------------------

    def run_once(self) -> WorkResult:
        """Store what waits, in one transaction; on an error it waits on."""
        batch = [self._pending[index] for index in range(min(BATCH, len(self._pending)))]
        if not batch and not self._due():
            return NOTHING
        try:
            self._write(batch)
        except Exception as error:
            if not is_content_error(error):
                raise
            self._write_each(batch)
        for _ in batch:
            self._pending.popleft()
        return WorkResult(again=bool(self._pending))

    def _write(self, batch: list[_Entry]) -> None:
        records = [entry for entry in batch if isinstance(entry, dict)]
        with self._db.write() as session:
            for entry in batch:
                if isinstance(entry, _Audit):
                    _add_audit(session, entry)
            for (day, subject), usage in _totals(batch).items():
                _add_usage(session, day, subject, usage)
            if records:
                session.connection().execute(insert(_RECORDS), records)
            self._delete_old(session)

    def _write_each(self, batch: list[_Entry]) -> None:
        """Each entry in its own transaction, so that one that no database takes costs no other."""
        for entry in batch:
            try:
                self._write([entry])
            except Exception as error:
                if not is_content_error(error):
                    raise
                log.error("inference.record_failed", extra={"fields": {"reason": type(error).__name__}})

    def _due(self) -> bool:
        with self._db.read() as session:
            oldest = session.exec(select(InferenceRecord.t_us).order_by(col(InferenceRecord.t_us)).limit(1)).first()
        return bool(self._keep_us) and oldest is not None and oldest < now_us() - self._keep_us

    def _delete_old(self, session: Session) -> None:
        if self._keep_us:
            old = col(InferenceRecord.t_us) < now_us() - self._keep_us
            session.connection().execute(delete(InferenceRecord).where(old))


def _add_audit(session: Session, entry: _Audit) -> None:
    call = entry.call
    trail.add(session, entry.t_us, call.tenant, entry.kind, call.model[:80], device=call.device, trace=call.trace,
              sites=list(call.sites or ()), **entry.detail)  # fmt: skip


def _totals(batch: list[_Entry]) -> dict[tuple[int, Subject], Usage]:
    """The usage in a batch by day and subject: a busy subject is one row."""
    totals: dict[tuple[int, Subject], Usage] = {}
    for entry in batch:
        if isinstance(entry, _Used):
            for subject in entry.subjects:
                totals.setdefault((entry.day, subject), Usage()).add(entry.usage)
    return totals


def _add_usage(session: Session, day: int, subject: Subject, usage: Usage) -> None:
    row = session.get(InferenceUsage, (day, *subject)) or InferenceUsage(day=day, kind=subject[0], name=subject[1])
    row.requests += usage.requests
    row.tokens_in += usage.tokens_in
    row.tokens_out += usage.tokens_out
    row.seconds += usage.seconds
    row.money += usage.money
    session.add(row)


def usage_of_day(session: Session, day: int) -> Iterable[tuple[Subject, Usage]]:
    """The stored usage of a day."""
    for row in session.exec(select(InferenceUsage).where(InferenceUsage.day == day)):
        yield (
            (row.kind, row.name),  # type: ignore[misc]
            Usage(requests=row.requests, tokens_in=row.tokens_in, tokens_out=row.tokens_out, seconds=row.seconds,
                  money=row.money),
        )  # fmt: skip
