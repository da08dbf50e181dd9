"""A notification channel at work on a virtual clock: incidents in a database, a receiver that keeps what it hears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from sqlmodel import select

from cloud_hub import clock
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Incident, Notification
from cloud_hub.notifications import Page
from cloud_hub.notifications.delivery import ChannelWorker
from cloud_hub.settings import channels
from shared.durations import HOUR_US
from shared.ids import uuid7

S = 1_000_000
DEFAULTS = {"group_wait_s": 10, "group_interval_s": 60, "burst": 0}


@dataclass
class Taker:
    """Keeps what it is told; fails with `error` while there is one. `crash` dies after the message went out."""

    most: int = 100
    told: list[list[Page]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    error: Exception | None = None
    crash: bool = False

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        if self.error is not None:
            raise self.error
        self.told.append(list(pages))
        self.times.append(now_us)
        if self.crash:
            raise KeyboardInterrupt

    def heard(self) -> list[tuple[str, str]]:
        return [(page.id, "open" if page.open else "resolved") for pages in self.told for page in pages]


class World:
    """A database with incidents and one channel. `passes` runs the worker when a row is due, and each half minute."""

    def __init__(self, db: Database, **settings: Any) -> None:
        raw = {"kind": "webhook", "url": "https://ops.example", **DEFAULTS, **settings}
        if raw["kind"] == "email":
            raw = {"host": "h", "sender": "a@b", "to": ["c@d"]} | {k: v for k, v in raw.items() if k != "url"}
        self.settings: Any = TypeAdapter(channels.AnyChannel).validate_python(raw)
        self.db, self.taker, self.count = db, Taker(), 0
        self.now = clock.now_us() // HOUR_US * HOUR_US  # ends are notified at multiples of an interval
        self.restart()
        self.channel.run_once()

    def restart(self) -> None:
        self.channel = ChannelWorker(self.db, "ops", self.settings, self.taker, lambda: 0.5, lambda: self.now)

    def passes(self, seconds: int) -> None:
        end = self.now + seconds * S
        self.now += S
        self.channel.run_once()
        while self.now < end:
            self.now = min(self._next_run(), end)
            self.channel.run_once()

    def _next_run(self) -> int:
        """The next second at which a row is due; one that the rate holds back is tried each five seconds."""
        due = [row.due_us for row in self.rows() if row.due_us is not None]
        next_us = min(due, default=self.now + 30 * S)
        wait_s = -(-(next_us - self.now) // S) if next_us > self.now else 5
        return self.now + min(max(wait_s, 1), 30) * S

    def opens(self, priority: str = "high", page: str = "", device: str = "press-3", suppressed: str = "") -> str:
        self.count += 1
        number = uuid7(self.now, self.count)
        with self.db.write() as session:
            session.add(Incident(id=number, device=device, subject="cpu", opened_us=self.now, page=page or number))
        self.alarm(number, priority, suppressed, device)
        return number

    def alarm(self, incident: str, priority: str = "high", suppressed: str = "", device: str = "press-3") -> None:
        self.count += 1
        with self.db.write() as session:
            session.add(
                AlarmRow(id=f"a{self.count}", device=device, metric="cpu.load", kind="high", priority=priority,
                         state="raised", value=97.0, limit=90.0, raised_us=self.now, received_us=self.now,
                         incident=incident, suppressed=suppressed)
            )  # fmt: skip

    def shelve(self, how: str) -> None:
        with self.db.write() as session:
            for row in session.exec(select(AlarmRow)):
                row.suppressed = how

    def becomes(self, incident: str, state: str) -> None:
        with self.db.write() as session:
            row = session.get(Incident, incident)
            assert row is not None
            row.state, row.resolved_us = state, self.now if state == "resolved" else None
            for alarm in session.exec(select(AlarmRow).where(AlarmRow.incident == incident)):
                if state == "acknowledged":
                    alarm.acked_us = alarm.acked_us or self.now
                elif state == "resolved":
                    alarm.state, alarm.cleared_us = "cleared", self.now

    def rows(self) -> list[Notification]:
        with self.db.read() as session:
            return list(session.exec(select(Notification).order_by(Notification.id)))
