"""One stream on its way to the hub: what was accepted, sent and acknowledged, how many rows may be under way, and when
to doubt that they are.

A core. The window grows by one with each acknowledgement that comes about as soon as the quickest of its connection,
and is halved when one takes more than twice as long (the idea of TCP Vegas, Brakmo and Peterson 1995). So a fleet that
returns as one waits at its devices, and not in a broker that drops what exceeds its queue.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

FIRST_WINDOW = 2
WINDOW_ROWS = 16
"""Rows of one stream that may be on their way without the hub's acknowledgement: on a new connection, and at most."""
QUICK_S = 1.0
"""An acknowledgement within this time is quick in any case."""
LONGEST_RESEND_S = 60.0
DOUBTS = 2
"""Times that the hub is asked what it holds before rows are sent again: its answer overtakes what waits in the broker's
queue, so the first one says only that it is there and busy."""


@dataclass(slots=True)
class StreamWindow:
    """One stream: accepted up to `last`, sent up to `sent`, durable at the hub up to `acked`."""

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
        """Whether a row waits that may be sent."""
        return self.sent < self.last and len(self.in_flight) < self._window

    @property
    def lost(self) -> bool:
        """Whether the hub was asked often enough to take for lost what flies."""
        return self._doubts >= DOUBTS

    def record_sent(self, last: int, now: float) -> None:
        """A row that ends at `last` was sent."""
        if not self.in_flight:
            self._since = now
        self.sent = last
        self.in_flight.append((last, now))

    def record_acked(self, upto: int, now: float) -> None:
        """The hub holds the stream up to `upto`, which is news."""
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
        """Whether it is time to ask the hub what it holds, which is asked ever more seldom."""
        if not self.in_flight or now - self._since < self._patience_s:
            return False
        self._since, self._patience_s = now, min(self._patience_s * 2, LONGEST_RESEND_S)
        self._doubts += 1
        return True

    def rewind(self) -> None:
        """What flies may be lost: send it again."""
        self.sent = self.acked
        self.in_flight.clear()
        self._window, self._quickest_s = FIRST_WINDOW, math.inf

    def begin(self) -> None:
        """On a new connection, or for a hub that begins anew: as if nothing had been tried."""
        self.rewind()
        self._patience_s, self._doubts = self.resend_s, 0
