"""Sliding window of one stream: what was accepted, sent and acknowledged, how many rows may be in flight, and when to
resend them. No I/O.

The window grows by one with each acknowledgement that is about as fast as the fastest of its connection, and is halved
when one takes more than twice as long (the idea of TCP Vegas, Brakmo and Peterson 1995). When a whole fleet reconnects,
its backlog waits on the devices instead of overflowing the broker's queues.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

FIRST_WINDOW = 2
WINDOW_ROWS = 16
"""Window in rows of one stream: on a new connection, and the maximum."""
QUICK_S = 1.0
"""An acknowledgement within this time always counts as fast."""
LONGEST_RESEND_S = 60.0
DOUBTS = 2
"""Number of times the hub is asked for its session before rows are resent. Its answer overtakes rows in the broker's
queue, so the first answer only shows that the hub is up."""


@dataclass(slots=True)
class StreamWindow:
    """The window of one stream: accepted up to `last`, sent up to `sent`, acknowledged by the hub up to `acked`."""

    resend_s: float
    last: int = 0
    sent: int = 0
    acked: int = 0
    in_flight: deque[tuple[int, float]] = field(default_factory=deque)
    _window: int = FIRST_WINDOW
    _quickest_s: float = math.inf
    _patience_s: float = 0.0
    _since: float = 0.0
    _doubts: int = 0

    def __post_init__(self) -> None:
        self.sent, self._patience_s = self.acked, self.resend_s

    @property
    def ready(self) -> bool:
        """Whether there is a row that may be sent."""
        return self.sent < self.last and len(self.in_flight) < self._window

    @property
    def lost(self) -> bool:
        """Whether rows in flight count as lost, because the hub was asked DOUBTS times."""
        return self._doubts >= DOUBTS

    def record_sent(self, last: int, now: float) -> None:
        """Record that a row ending at `last` was sent."""
        if not self.in_flight:
            self._since = now
        self.sent = last
        self.in_flight.append((last, now))

    def record_acked(self, upto: int, now: float) -> None:
        """Record a new acknowledgement up to `upto`."""
        self.acked, self.sent = upto, max(self.sent, upto)
        self._since, self._patience_s, self._doubts = now, self.resend_s, 0
        took_s = None
        while self.in_flight and self.in_flight[0][0] <= upto:
            took_s = now - self.in_flight.popleft()[1]
        if took_s is not None:
            self._pace(took_s)

    def _pace(self, took_s: float) -> None:
        self._quickest_s = min(self._quickest_s, took_s)
        quick = took_s <= max(QUICK_S, 2 * self._quickest_s)
        self._window = min(self._window + 1, WINDOW_ROWS) if quick else max(self._window // 2, 1)

    def should_query_hub(self, now: float) -> bool:
        """Whether to ask the hub what it has stored; the interval doubles each time."""
        if not self.in_flight or now - self._since < self._patience_s:
            return False
        self._since, self._patience_s = now, min(self._patience_s * 2, LONGEST_RESEND_S)
        self._doubts += 1
        return True

    def rewind(self) -> None:
        """Send the rows in flight again, because they may be lost."""
        self.sent = self.acked
        self.in_flight.clear()
        self._window, self._quickest_s = FIRST_WINDOW, math.inf

    def begin(self) -> None:
        """Reset the window for a new connection or a hub with a new epoch."""
        self.rewind()
        self._patience_s, self._doubts = self.resend_s, 0
