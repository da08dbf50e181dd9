"""The lease: only one hub of a database acts (A6).

As in Kubernetes' leader election, no hub trusts another one's clock: a hub takes the lease over when it has seen, for
LEASE_S by its own clock, that nobody renews it. The holder renews it every RENEW_S, and counts it as lost LEASE_S after
its last renewal began. Each change of the holder raises the fencing token, which is checked in the transaction of every
decision; so a hub that slept through the end of its lease can store none.

On SQLite a hub is alone with its database (`runtime.state_lock`): it takes the lease at once.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

from sqlmodel import Session

from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Lease

log = logging.getLogger(__name__)

NAME = "autoscale"
LEASE_S, RENEW_S = 15.0, 4.0
MARGIN_S = 1.0
"""A call to a platform must be able to end so long before the lease does."""


def elapsed_s() -> float:
    """A clock that nobody sets, and that counts the time asleep."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class HubLease:
    """This hub's part in the lease. `elapsed_s` is a steady clock in seconds, `wall_us` that of the audit trail."""

    def __init__(
        self, db: Database, elapsed_s: Callable[[], float] = elapsed_s, wall_us: Callable[[], int] = now_us,
        holder: str = "", alone: bool | None = None,
    ) -> None:  # fmt: skip
        self._db, self._elapsed_s, self._wall_us = db, elapsed_s, wall_us
        self.holder = holder or secrets.token_hex(8)
        self._alone = db.is_file if alone is None else alone
        self._token: int | None = None
        self._renewed_s = 0.0
        self._seen: tuple[int, int] | None = None
        self._seen_s = 0.0

    @property
    def token(self) -> int | None:
        """The fencing token, or None while another hub holds the lease."""
        return self._token if self.lasts(0.0) else None

    def lasts(self, seconds: float) -> bool:
        """Whether the lease is this hub's for so many seconds more."""
        return self._token is not None and self._elapsed_s() + seconds < self._renewed_s + LEASE_S

    def hold(self) -> int | None:
        """Take or renew the lease if it is due, and return the token; None if another hub holds it."""
        if self._token is not None and self._elapsed_s() - self._renewed_s < RENEW_S and self.lasts(0.0):
            return self._token
        began_s = self._elapsed_s()
        with self._db.write() as session:
            token = self._take(session)
        if token is None:
            self._token = None
            return None
        if token != self._token:
            log.info("autoscale.lease_taken", extra={"fields": {"token": token, "holder": self.holder}})
        self._token, self._renewed_s = token, began_s
        return self.token

    def release(self) -> None:
        """Let another hub take the lease at once."""
        if self._token is None:
            return
        with self._db.write() as session:
            row = session.get(Lease, NAME)
            if row is not None and row.holder == self.holder:
                row.holder = ""
        self._token = None

    def _take(self, session: Session) -> int | None:
        row = session.get(Lease, NAME)
        if row is None:
            row = Lease(name=NAME, holder="", token=0)
            session.add(row)
        if row.holder != self.holder:
            if row.holder and not self._alone and not self._abandoned(row):
                return None
            before, row.holder, row.token = row.holder, self.holder, row.token + 1
            trail.add(session, self._wall_us(), "hub", "autoscale.lease-taken", self.holder, token=row.token,
                      before=before)  # fmt: skip
        row.renewals += 1
        return row.token

    def _abandoned(self, row: Lease) -> bool:
        """Whether nobody renewed the lease since this hub first saw it so, LEASE_S ago."""
        now_s, state = self._elapsed_s(), (row.token, row.renewals)
        if state != self._seen:
            self._seen, self._seen_s = state, now_s
        return now_s - self._seen_s > LEASE_S


def holds(session: Session, token: int | None) -> bool:
    """Whether `token` is the newest one: for the transaction of a decision."""
    row = session.get(Lease, NAME)
    return token is not None and row is not None and row.token == token
