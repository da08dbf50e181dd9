"""Delivers the notifications of one channel: finds pages, schedules a row for each, sends it, records the outcome.

Rows are derived from committed incidents, so no notification is lost between an alarm and its row. A row is claimed for
a while before it is sent. Other hubs skip a claimed row; after a crash it becomes due again when the claim ends.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlmodel import Session, and_, col, or_, select

from cloud_hub import clock
from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Meta, Notification
from cloud_hub.incidents import groups
from cloud_hub.notifications import Page, Sender, pages
from cloud_hub.notifications.core import routing
from cloud_hub.notifications.senders import open_sender
from cloud_hub.runtime.context import HubContext
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkerSpec, WorkResult
from cloud_hub.settings.channels import Common
from shared.errors import ConfigError, NotReady
from shared.ids import uuid7

log = logging.getLogger(__name__)

CLAIM_S = 120.0
"""How long a row stays claimed; longer than sending any one message takes."""
BACK_US = 60_000_000
"""How far to read back behind the cursor: a transaction may commit this much later than the time in its incident's id.
"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The channel's pages by id, and the fields to change by page; `device` is among them for a new row."""

    pages: dict[str, Page] = field(default_factory=dict)
    changes: dict[str, routing.Fields] = field(default_factory=dict)


Evaluate = Callable[[Session, Mapping[str, Notification], Iterable[str], int], Evaluation]


def workers(context: HubContext) -> list[WorkerSpec]:
    """One worker for each channel; raises ConfigError."""
    draw = random.SystemRandom().random
    specs = []
    for name, channel in context.settings.notify.items():
        sender = open_sender(name, channel, context.settings.name)
        worker = ChannelWorker(context.db, name, channel, sender, draw)
        specs.append(WorkerSpec(name=f"notify-{name}", run_once=worker.run_once))
    return specs


class ChannelWorker:
    """The channel `name`. `draw` gives uniform numbers in 0..1; `now` is the clock, in UTC microseconds."""

    def __init__(
        self, db: Database, name: str, settings: Common, sender: Sender, draw: Callable[[], float],
        now: Callable[[], int] = clock.now_us,
    ) -> None:  # fmt: skip
        self.name = name
        self._db, self._settings, self._sender, self._draw, self._now = db, settings, sender, draw, now
        self._sent: deque[routing.SentMessage] = deque(maxlen=max(settings.per_minute, settings.burst))

    def run_once(self) -> WorkResult:
        """Update the rows of changed pages, and send one message if any is due and the rate limit allows it."""
        items = WorkItems(self._db, f"notify-{self.name}", self._now())
        self._update(items)
        if routing.rate_allows(self._sent, self._settings.per_minute, self._now()):
            batch = self._claim(items)
            if batch:
                self._sent.append((self._now(), routing.rank(page for _, _, page in batch)))
                self._send(batch)
        return items.result()

    # -- scheduling ----------------------------------------------------------------------------------

    def _update(self, items: WorkItems) -> None:
        with self._db.read() as session:
            if not self._changes(session, self._cursor(session), partial(self._evaluate_each, items)):
                return
        with self._db.write() as session:  # evaluated again: the state may have changed in between
            changes = self._changes(session, self._cursor(session), partial(self._evaluate_due, items))
            for page, fields in changes.items():
                self._store(session, page, fields)

    def _evaluate_each(
        self, items: WorkItems, session: Session, rows: Mapping[str, Notification], ids: Iterable[str], now: int
    ) -> Evaluation:
        """Evaluate pages so that one that fails blocks no other. It is recorded as a failed item.

        Call it outside a write transaction: failures are recorded in a transaction of their own.
        """
        evaluation = Evaluation()
        for part in items.batch("page", sorted(ids), lambda some: self._evaluate(session, rows, some, now)):
            evaluation.pages.update(part.pages)
            evaluation.changes.update(part.changes)
        return evaluation

    def _evaluate_due(
        self, items: WorkItems, session: Session, rows: Mapping[str, Notification], ids: Iterable[str], now: int
    ) -> Evaluation:
        """Evaluate the pages that `_evaluate_each` did not record as failed."""
        return self._evaluate(session, rows, [page for page in ids if items.due("page", page)], now)

    def _evaluate(
        self, session: Session, rows: Mapping[str, Notification], ids: Sequence[str], now: int
    ) -> Evaluation:  # fmt: skip
        loaded, changes = self._load(session, ids), dict[str, routing.Fields]()
        for number in ids:
            page, fields = loaded.get(number), None
            if number in rows:
                fields = routing.next_state(self._settings, page, rows[number], now)
            elif page is not None and (fields := routing.initial_state(self._settings, page, now)):
                fields |= {"device": page.device}
            if fields:
                changes[number] = fields
        return Evaluation(pages=loaded, changes=changes)

    def _load(self, session: Session, ids: Iterable[str]) -> dict[str, Page]:
        """Load pages, limited to the incidents that this channel is configured for."""
        loaded = {
            number: routing.for_channel(self._settings, page) for number, page in pages.load_pages(session, ids).items()
        }
        return {number: page for number, page in loaded.items() if page is not None}

    def _changes(self, session: Session, cursor: int | None, evaluate: Evaluate) -> dict[str, routing.Fields]:
        """Fields to change by page; the key '' stands for the cursor."""
        now = self._now()
        if cursor is None:
            return {"": {"cursor": now}}
        ids = pages.open_pages(session, uuid7(max(cursor - BACK_US, 0), 0))
        rows = self._rows(session, ids)
        evaluation = evaluate(session, rows, ids | set(rows), now)
        newest = max(
            (incident.opened_us for page in evaluation.pages.values() for incident in page.incidents), default=0
        )
        return evaluation.changes | ({"": {"cursor": newest}} if newest > cursor else {})

    def _rows(self, session: Session, ids: set[str]) -> dict[str, Notification]:
        """The rows of these pages, and all rows that are still active.

        A page that was shelved after it was notified is active too: its end is to be notified.
        """
        mine = select(Notification).where(Notification.channel == self.name)
        shelved = and_(col(Notification.error) == routing.SHELVED, col(Notification.sent_status) == "open")
        rows = list(session.exec(mine.where(or_(col(Notification.state).in_(["waiting", "notified"]), shelved))))
        seen, wanted = {row.page for row in rows}, sorted(ids - {row.page for row in rows})
        for start in range(0, len(wanted), pages.BATCH_SIZE):
            some = wanted[start : start + pages.BATCH_SIZE]
            rows += [row for row in session.exec(mine.where(col(Notification.page).in_(some))) if row.page not in seen]
        return {row.page: row for row in rows}

    def _cursor(self, session: Session) -> int | None:
        row = session.get(Meta, f"notify:{self.name}")
        return None if row is None else int(row.value)

    def _store(self, session: Session, page: str, fields: routing.Fields) -> None:
        if not page:
            session.merge(Meta(key=f"notify:{self.name}", value=str(fields["cursor"])))
        elif "device" in fields:
            session.add(Notification(id=clock.new_id(), channel=self.name, page=page, **fields))
        else:
            query = select(Notification).where(Notification.channel == self.name, Notification.page == page)
            _set(session.exec(query).one(), fields)

    # -- sending -------------------------------------------------------------------------------------

    def _claim(self, items: WorkItems) -> list[tuple[str, str, Page]]:
        """Claim the most urgent due rows: (row id, status, page) of each."""
        now = self._now()
        query = select(Notification).where(Notification.channel == self.name, col(Notification.due_us) <= now)
        threshold = routing.burst_threshold(self._settings, self._sent, now)
        with self._db.read() as session:
            rows = {row.page: row for row in session.exec(query)}
            evaluation = self._evaluate_each(items, session, rows, rows, now)
            evaluated = any(items.due("page", page) for page in rows)
            if not evaluated or (threshold is not None and routing.rank(evaluation.pages.values()) <= threshold):
                return []
        with self._db.write() as session:
            rows = {row.page: row for row in session.exec(query)}
            evaluation = self._evaluate_due(items, session, rows, rows, now)
            for page, fields in evaluation.changes.items():  # shelved, acknowledged or reopened just now
                _set(rows[page], fields)
            ready = {number: page for number, page in evaluation.pages.items() if _is_due(rows[number], now)}
            urgent = routing.most_urgent(ready, self._sender.most)
            return [self._claimed(rows[page], ready[page], now) for page in urgent]

    def _claimed(self, row: Notification, page: Page, now: int) -> tuple[str, str, Page]:
        joined = routing.unnotified_incidents(self._settings, page, row) if row.messages else []
        row.due_us, row.due_priority = now + int(CLAIM_S * 1e6), page.highest
        status = "open" if page.open else "resolved"
        devices = tuple(dict.fromkeys(incident.device for incident in joined))
        return row.id, status, replace(page, joined=devices, message=row.messages)

    def _send(self, batch: list[tuple[str, str, Page]]) -> None:
        reason, wait_s = "", 0.0
        try:
            self._sender.send([page for _, _, page in batch], self._now())
        except NotReady as error:
            reason, wait_s = error.reason, error.wait_s
        except ConfigError as error:
            reason, wait_s = str(error), routing.REFUSED_S
        except Exception as error:
            log.exception("notification.page_failed", extra={"fields": {"channel": self.name, "pages": len(batch)}})
            if len(batch) > 1:  # send each page alone, so that the bad one does not block the others
                for claimed in batch:
                    self._send([claimed])
                return
            reason = f"the hub failed: {type(error).__name__}; see its log"
        fields: dict[str, Any] = {"channel": self.name, "pages": len(batch)}
        if reason:
            log.warning("notification.failed", extra={"fields": fields | {"reason": reason}})
        else:
            log.info("notification.sent", extra={"fields": fields})
        with self._db.write() as session:
            for number, status, page in batch:
                self._settle(session, number, status, page, reason, wait_s)

    def _settle(self, session: Session, number: str, status: str, page: Page, reason: str, wait_s: float) -> None:
        row, now = session.get(Notification, number), self._now()
        if row is None:
            return
        if not reason:
            fields = routing.after_success(self._settings, page, row, status, now)
            if not groups.carry_late(session, row, fields["notified"]):
                _set(row, {"due_status": status} | fields)
            return
        if groups.is_merged(row):
            return
        _set(row, routing.after_failure(self._settings, page, row, reason, wait_s, self._draw(), now))
        if row.state == "given-up":
            log.error(
                "notification.given_up", extra={"fields": {"channel": self.name, "page": page.id, "reason": reason}}
            )
            trail.add(session, now, "hub", "notification.given-up", self.name, device=page.device, incident=page.id,
                      tries=row.tries, reason=reason[:300])  # fmt: skip


def _is_due(row: Notification, now: int) -> bool:
    return row.due_us is not None and row.due_us <= now


def _set(row: Notification, fields: routing.Fields) -> None:
    for name, value in fields.items():
        setattr(row, name, value)
