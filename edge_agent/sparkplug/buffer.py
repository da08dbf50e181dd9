"""Store and forward: changes that could not be sent are stored on disk, and sent later as historical.

It uses an `Outbox` of its own: bounded, oldest rows evicted first, damage handled. Sparkplug's data messages are not
acknowledged, so a row is deleted only after the connection has lasted `resend_s` longer than its sending; after a lost
connection younger rows, and younger live changes, are sent again. A host may thus get a historical point twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from edge_agent.runtime.health import clock_quality
from edge_agent.sparkplug.core.naming import Place
from edge_agent.sparkplug.core.reporting import Point
from edge_agent.sparkplug.core.tags import Change
from edge_agent.store.outbox import Outbox, OutboxFull, RowBatch
from shared.protocol.codec import decode
from shared.protocol.messages import Batch, Stream

log = logging.getLogger(__name__)

STREAM: Stream = "telemetry"
"""The only stream of this outbox that is used: the one that is evicted when it is full."""
MAX_PENDING = 5000
"""Changes that wait in memory for the next commit; with a full disk the oldest ones are dropped."""
MAX_RECENT = 20_000
COMMIT_S = 1.0


class Buffer:
    """Changes in the order in which they were made, in memory until the next commit, then in `outbox`."""

    def __init__(self, outbox: Outbox, resend_s: float) -> None:
        self._outbox, self._resend_s = outbox, resend_s
        self._pending: list[Change] = []
        self._committed_s = 0.0
        self._recent: deque[tuple[float, Change]] = deque(maxlen=MAX_RECENT)
        self._sent: deque[tuple[float, int]] = deque()
        self._cursor = outbox.acked[STREAM]
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Changes that are not sent yet."""
        return len(self._pending) + max(0, self._outbox.last[STREAM] - self._cursor)

    def store(self, changes: Iterable[Change]) -> None:
        """Keep changes that cannot be sent now."""
        self._pending += changes

    def sent_live(self, changes: Iterable[Change], now_s: float) -> None:
        """Remember changes that were just sent, in case the connection turns out to be lost."""
        if self._resend_s:
            self._recent.extend((now_s, change) for change in changes)

    def lost(self, now_s: float) -> None:
        """The connection was lost: what was sent last is to be sent again."""
        again = [change for sent_s, change in self._recent if now_s - sent_s <= self._resend_s]
        self._recent.clear()
        self._pending = again + self._pending
        self._settle(now_s)
        self._sent.clear()
        self._cursor = self._outbox.acked[STREAM]

    def tick(self, now_s: float) -> None:
        """Commit what is pending, and delete what was sent long enough ago. Called about every 0.1 s."""
        if self._pending and now_s - self._committed_s >= COMMIT_S:
            self.commit(now_s)
        self._settle(now_s)
        while self._recent and now_s - self._recent[0][0] > self._resend_s:
            self._recent.popleft()

    def commit(self, now_s: float) -> None:
        """Store what is pending on disk."""
        self._committed_s = now_s
        if not self._pending:
            return
        items = [_item(change) for change in self._pending]
        try:
            self._outbox.accept([RowBatch(stream=STREAM, items=items)], clock_quality())
            self._pending = []
        except OutboxFull as error:
            excess = max(0, len(self._pending) - MAX_PENDING)
            del self._pending[:excess]
            self.dropped += excess
            log.error("sparkplug.buffer_full", extra={"fields": {"reason": str(error), "dropped": self.dropped}})
        if self._cursor > self._outbox.last[STREAM]:  # the file was damaged and replaced by a new one
            self._cursor = self._outbox.acked[STREAM]
            self._sent.clear()

    def next(self) -> tuple[list[Change], int] | None:
        """The oldest changes on disk that were not sent on this connection, and their number for `sent`."""
        if self._cursor >= self._outbox.last[STREAM]:
            return None
        row = self._outbox.after(STREAM, self._cursor)
        return None if row is None else (_changes(row.payload), row.last)

    def sent(self, number: int, now_s: float) -> None:
        """The changes up to this number were sent."""
        self._cursor = number
        self._sent.append((now_s, number))
        self._settle(now_s)

    def close(self, *, connected: bool) -> None:
        """Commit and close; `connected`: what was sent has left the device."""
        if connected and self._sent:
            self._outbox.forget(STREAM, self._sent[-1][1])
        self.commit(0.0)
        self._outbox.close()

    def _settle(self, now_s: float) -> None:
        upto = 0
        while self._sent and now_s - self._sent[0][0] >= self._resend_s:
            upto = self._sent.popleft()[1]
        if upto:
            self._outbox.forget(STREAM, upto)


def _item(change: Change) -> list[Any]:
    place, point = change.place, change.point
    return [place.device, place.name, point.t_ms, point.value, point.quality]


def _changes(payload: bytes) -> list[Change]:
    """The changes of a row; one that cannot be read is left out, a range that was evicted is empty."""
    found = []
    for item in decode(Batch, payload).items:
        try:
            device, name, t_ms, value, quality = msgspec.convert(item, tuple[str, str, int, _Value, int])
        except msgspec.ValidationError as error:
            log.warning("sparkplug.row_refused", extra={"fields": {"reason": str(error)}})
            continue
        found.append(Change(Place(device, name), Point(value, quality, t_ms), show_quality=True))
    return found


_Value = float | str | bool | None
