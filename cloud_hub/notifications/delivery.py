"""One channel at work: looks at pages, keeps in the database what is to be told, tells it, keeps what became of it.

Incidents are the committed facts; rows are made from them, so nothing gets lost between an alarm and its row. A row is
claimed for a while before it is told: another hub passes it over, and after a crash it is told (again) then.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub import clock
from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Meta, Notification
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

Loaded = tuple[dict[str, Page], set[str]]
"""Pages by id, and the ids of those that cannot be read."""

CLAIM_S = 120.0
"""Longer than any one message takes."""
BACK_US = 60_000_000
"""A transaction may commit this much later than its incident's id says."""


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
        self._left: deque[routing.SentMessage] = deque(maxlen=max(settings.per_minute, settings.burst))

    def run_once(self) -> WorkResult:
        """Take up what is new, and send one message if anything is due and the rate allows it."""
        items = WorkItems(self._db, f"notify-{self.name}", self._now())
        self._look(items)
        if routing.rate_allows(self._left, self._settings.per_minute, self._now()):
            batch = self._claim(items)
            if batch:
                self._left.append((self._now(), routing.rank(page for _, _, page in batch)))
                self._send(batch)
        return items.result()

    # -- what is to be told --------------------------------------------------------------------------

    def _look(self, items: WorkItems) -> None:
        with self._db.read() as session:
            cursor = self._cursor(session)
            if not self._changes(session, cursor, partial(self._load_each, session, items)):
                return
        with self._db.write() as session:  # read again: what was seen above may have changed
            cursor = self._cursor(session)
            for page, fields in self._changes(session, cursor, partial(self._load, session, items)).items():
                self._keep(session, page, fields)

    def _load_each(self, session: Session, items: WorkItems, ids: Iterable[str]) -> Loaded:
        """(Pages as they stand, those that cannot be read): what is wrong with one page holds up no other.

        Not in a transaction that writes: what failed is noted in one of its own.
        """
        wanted = sorted(ids)
        found: dict[str, Page] = {}
        for some in items.batch("page", wanted, lambda part: self._own(session, part)):
            found |= some
        return found, {page for page in wanted if not items.due("page", page)}

    def _load(self, session: Session, items: WorkItems, ids: Iterable[str]) -> Loaded:
        """The same of pages that `_load_each` could read a moment ago."""
        wanted = set(ids)
        unread = {page for page in wanted if not items.due("page", page)}
        return self._own(session, wanted - unread), unread

    def _own(self, session: Session, ids: Iterable[str]) -> dict[str, Page]:
        """These pages as far as they are this channel's."""
        found = {
            number: routing.for_channel(self._settings, page) for number, page in pages.load_pages(session, ids).items()
        }
        return {number: page for number, page in found.items() if page is not None}

    def _changes(
        self, session: Session, cursor: int | None, load: Callable[[Iterable[str]], Loaded]
    ) -> dict[str, routing.Fields]:  # fmt: skip
        """Fields to change by page; `device` is among them where a row is to be made. '' stands for the cursor."""
        now = self._now()
        if cursor is None:
            return {"": {"cursor": now}}
        ids = pages.open_pages(session, uuid7(max(cursor - BACK_US, 0), 0))
        rows = self._rows(session, ids)
        found, unread = load(ids | set(rows))
        changes = {
            page: routing.next_state(self._settings, found.get(page), row, now)
            for page, row in rows.items() if page not in unread
        }  # fmt: skip
        for page, one in found.items():
            if page not in rows and (fields := routing.initial_state(self._settings, one, now)):
                changes[page] = fields | {"device": one.device}
        newest = max((each.opened_us for one in found.values() for each in one.incidents), default=0)
        if newest > cursor:
            changes[""] = {"cursor": newest}
        return {page: fields for page, fields in changes.items() if fields}

    def _rows(self, session: Session, ids: set[str]) -> dict[str, Notification]:
        """Rows of these pages, and all that are not done."""
        mine = select(Notification).where(Notification.channel == self.name)
        rows = list(session.exec(mine.where(col(Notification.state).in_(["waiting", "told"]))))
        seen, wanted = {row.page for row in rows}, sorted(ids - {row.page for row in rows})
        for start in range(0, len(wanted), pages.BATCH_SIZE):
            some = wanted[start : start + pages.BATCH_SIZE]
            rows += [row for row in session.exec(mine.where(col(Notification.page).in_(some))) if row.page not in seen]
        return {row.page: row for row in rows}

    def _cursor(self, session: Session) -> int | None:
        row = session.get(Meta, f"notify:{self.name}")
        return None if row is None else int(row.value)

    def _keep(self, session: Session, page: str, fields: routing.Fields) -> None:
        if not page:
            session.merge(Meta(key=f"notify:{self.name}", value=str(fields["cursor"])))
        elif "device" in fields:
            session.add(Notification(id=clock.new_id(), channel=self.name, page=page, **fields))
        else:
            query = select(Notification).where(Notification.channel == self.name, Notification.page == page)
            _set(session.exec(query).one(), fields)

    # -- telling -------------------------------------------------------------------------------------

    def _claim(self, items: WorkItems) -> list[tuple[str, str, Page]]:
        """(row, what it wants, page) of the most urgent rows that are due; due again when the claim ends."""
        now = self._now()
        query = select(Notification).where(Notification.channel == self.name, col(Notification.due_us) <= now)
        above = routing.burst_threshold(self._settings, self._left, now)
        with self._db.read() as session:
            due = {row.page for row in session.exec(query)}
            found, unread = self._load_each(session, items, due)
            if not due - unread or (above is not None and routing.rank(found.values()) <= above):
                return []
        with self._db.write() as session:
            rows = {row.page: row for row in session.exec(query)}
            found, unread = self._load(session, items, rows)
            for page, row in rows.items():  # what was shelved, acknowledged or came back just now
                if page not in unread:
                    _set(row, routing.next_state(self._settings, found.get(page), row, now))
            ready = {page: one for page, one in found.items() if _is_due(rows[page], now)}
            return [
                self._claimed(rows[page], ready[page], now) for page in routing.most_urgent(ready, self._sender.most)
            ]

    def _claimed(self, row: Notification, page: Page, now: int) -> tuple[str, str, Page]:
        joined = routing.unnotified_incidents(self._settings, page, row) if row.messages else []
        row.due_us, row.due_priority = now + int(CLAIM_S * 1e6), page.highest
        wanted = "open" if page.open else "resolved"
        devices = tuple(dict.fromkeys(one.device for one in joined))
        return row.id, wanted, replace(page, joined=devices, message=row.messages)

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
            if len(batch) > 1:  # one of them: each alone, or it takes the others with it each time
                for one in batch:
                    self._send([one])
                return
            reason = f"the hub failed: {type(error).__name__}; see its log"
        fields: dict[str, Any] = {"channel": self.name, "pages": len(batch)}
        if reason:
            log.warning("notification.failed", extra={"fields": fields | {"reason": reason}})
        else:
            log.info("notification.sent", extra={"fields": fields})
        with self._db.write() as session:
            for number, wanted, page in batch:
                self._settle(session, number, wanted, page, reason, wait_s)

    def _settle(self, session: Session, number: str, wanted: str, page: Page, reason: str, wait_s: float) -> None:
        row, now = session.get(Notification, number), self._now()
        if row is None:
            return
        if not reason:
            _set(row, {"wanted": wanted} | routing.after_success(self._settings, page, row, wanted, now))
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
