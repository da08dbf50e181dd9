"""One channel at work: looks at pages, keeps in the database what is to be told, tells it, keeps what became of it.

Incidents are the committed facts; rows are made from them, so nothing gets lost between an alarm and its row. A row is
claimed for a while before it is told: another hub passes it over, and after a crash it is told (again) then.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub import audit, clock
from cloud_hub.channels import Common
from cloud_hub.db import Database
from cloud_hub.notify import Page, Sender, pages, plan
from cloud_hub.runtime.items import Items
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.tables import Meta, Notification
from shared.errors import ConfigError, NotReady
from shared.ids import uuid7

log = logging.getLogger(__name__)

Loaded = tuple[dict[str, Page], set[str]]
"""Pages by id, and the ids of those that cannot be read."""

CLAIM_S = 120.0
"""Longer than any one message takes."""
BACK_US = 60_000_000
"""A transaction may commit this much later than its incident's id says."""


class Channel:
    """The channel `name`. `draw` gives uniform numbers in 0..1; `now` is the clock, in UTC microseconds."""

    def __init__(
        self, db: Database, name: str, settings: Common, sender: Sender, draw: Callable[[], float],
        now: Callable[[], int] = clock.now_us,
    ) -> None:  # fmt: skip
        self.name = name
        self._db, self._settings, self._sender, self._draw, self._now = db, settings, sender, draw, now
        self._left: deque[int] = deque(maxlen=settings.per_minute)

    def run_once(self) -> WorkResult:
        """Take up what is new, and send one message if anything is due and the rate allows it."""
        items = Items(self._db, f"notify-{self.name}", self._now())
        self._look(items)
        if plan.free(self._left, self._settings.per_minute, self._now()):
            batch = self._claim(items)
            if batch:
                self._left.append(self._now())
                self._send(batch)
        return items.result()

    # -- what is to be told --------------------------------------------------------------------------

    def _look(self, items: Items) -> None:
        with self._db.read() as session:
            cursor = self._cursor(session)
            if not self._changes(session, cursor, partial(self._load_each, session, items)):
                return
        with self._db.write() as session:  # read again: what was seen above may have changed
            cursor = self._cursor(session)
            for page, fields in self._changes(session, cursor, partial(self._load, session, items)).items():
                self._keep(session, page, fields)

    def _load_each(self, session: Session, items: Items, ids: Iterable[str]) -> Loaded:
        """(Pages as they stand, those that cannot be read): what is wrong with one page holds up no other.

        Not in a transaction that writes: what failed is noted in one of its own.
        """
        wanted = sorted(ids)
        found: dict[str, Page] = {}
        for some in items.batch("page", wanted, lambda part: pages.load(session, part)):
            found |= some
        return found, {page for page in wanted if not items.due("page", page)}

    @staticmethod
    def _load(session: Session, items: Items, ids: Iterable[str]) -> Loaded:
        """The same of pages that `_load_each` could read a moment ago."""
        wanted = set(ids)
        unread = {page for page in wanted if not items.due("page", page)}
        return pages.load(session, wanted - unread), unread

    def _changes(
        self, session: Session, cursor: int | None, load: Callable[[Iterable[str]], Loaded]
    ) -> dict[str, plan.Fields]:  # fmt: skip
        """Fields to change by page; `device` is among them where a row is to be made. '' stands for the cursor."""
        now = self._now()
        if cursor is None:
            return {"": {"cursor": now}}
        ids = pages.standing(session, uuid7(max(cursor - BACK_US, 0), 0))
        rows = self._rows(session, ids)
        found, unread = load(ids | set(rows))
        changes = {
            page: plan.change(self._settings, found.get(page), row, now)
            for page, row in rows.items() if page not in unread
        }  # fmt: skip
        for page, one in found.items():
            if page not in rows and (fields := plan.first(self._settings, one, now)):
                changes[page] = fields | {"device": one.device}
        newest = max((one.opened_us for one in found.values()), default=0)
        if newest > cursor:
            changes[""] = {"cursor": newest}
        return {page: fields for page, fields in changes.items() if fields}

    def _rows(self, session: Session, ids: set[str]) -> dict[str, Notification]:
        """Rows of these pages, and all that are not done."""
        mine = select(Notification).where(Notification.channel == self.name)
        rows = list(session.exec(mine.where(col(Notification.state).in_(["waiting", "told"]))))
        seen, wanted = {row.page for row in rows}, sorted(ids - {row.page for row in rows})
        for start in range(0, len(wanted), pages.TOGETHER):
            some = wanted[start : start + pages.TOGETHER]
            rows += [row for row in session.exec(mine.where(col(Notification.page).in_(some))) if row.page not in seen]
        return {row.page: row for row in rows}

    def _cursor(self, session: Session) -> int | None:
        row = session.get(Meta, f"notify:{self.name}")
        return None if row is None else int(row.value)

    def _keep(self, session: Session, page: str, fields: plan.Fields) -> None:
        if not page:
            session.merge(Meta(key=f"notify:{self.name}", value=str(fields["cursor"])))
        elif "device" in fields:
            session.add(Notification(id=clock.new_id(), channel=self.name, page=page, **fields))
        else:
            query = select(Notification).where(Notification.channel == self.name, Notification.page == page)
            _set(session.exec(query).one(), fields)

    # -- telling -------------------------------------------------------------------------------------

    def _claim(self, items: Items) -> list[tuple[str, str, Page]]:
        """(row, what it wants, page) of the most urgent rows that are due; due again when the claim ends."""
        now = self._now()
        query = select(Notification).where(Notification.channel == self.name, col(Notification.due_us) <= now)
        with self._db.read() as session:
            due = {row.page for row in session.exec(query)}
            if not due - self._load_each(session, items, due)[1]:
                return []
        with self._db.write() as session:
            rows = {row.page: row for row in session.exec(query)}
            found, unread = self._load(session, items, rows)
            for page in rows.keys() - found.keys() - unread:  # shelved just now
                _set(rows[page], plan.change(self._settings, None, rows[page], now))
            chosen = plan.most_urgent(found, self._sender.most)
            for page in chosen:
                rows[page].due_us = now + int(CLAIM_S * 1e6)
            return [(rows[page].id, "open" if found[page].open else "resolved", found[page]) for page in chosen]

    def _send(self, batch: list[tuple[str, str, Page]]) -> None:
        reason, wait_s = "", 0.0
        try:
            self._sender.send([page for _, _, page in batch], self._now())
        except NotReady as error:
            reason, wait_s = error.reason, error.wait_s
        except ConfigError as error:
            reason, wait_s = str(error), plan.REFUSED_S
        except Exception as error:
            log.exception("notify.page_failed", extra={"fields": {"channel": self.name, "pages": len(batch)}})
            if len(batch) > 1:  # one of them: each alone, or it takes the others with it each time
                for one in batch:
                    self._send([one])
                return
            reason = f"the hub failed: {type(error).__name__}; see its log"
        fields: dict[str, Any] = {"channel": self.name, "pages": len(batch)}
        if reason:
            log.warning("notify.failed", extra={"fields": fields | {"reason": reason}})
        else:
            log.info("notify.sent", extra={"fields": fields})
        with self._db.write() as session:
            for number, wanted, page in batch:
                self._settle(session, number, wanted, page, reason, wait_s)

    def _settle(self, session: Session, number: str, wanted: str, page: Page, reason: str, wait_s: float) -> None:
        row, now = session.get(Notification, number), self._now()
        if row is None:
            return
        if not reason:
            _set(row, {"wanted": wanted} | plan.sent(self._settings, page, wanted, now))
            return
        _set(row, plan.failed(self._settings, row, reason, wait_s, self._draw(), now))
        if row.state == "given-up":
            log.error("notify.given_up", extra={"fields": {"channel": self.name, "page": page.id, "reason": reason}})
            audit.add(session, now, "hub", "notification.given-up", self.name, device=page.device, incident=page.id,
                      tries=row.tries, reason=reason[:300])  # fmt: skip


def _set(row: Notification, fields: plan.Fields) -> None:
    for name, value in fields.items():
        setattr(row, name, value)
