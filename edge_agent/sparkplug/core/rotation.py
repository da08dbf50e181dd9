"""Which server is tried next, and when. No I/O.

A server that cannot be reached is followed by the next one soon, and a whole round without success by a wait that
doubles. A connection that was lost is tried again at the same server first.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.backoff import Backoff

SOON_S = 0.5
STEADY_S = 10.0
"""A connection that lasted this long resets the wait."""


class Rotation:
    """`index` is the server to connect to, from `at_s` on (monotonic)."""

    def __init__(self, servers: int, random: Callable[[], float]) -> None:
        self._servers, self._backoff = servers, Backoff(1.0, 60.0, random)
        self.index, self.at_s = 0, 0.0
        self._tried = 0
        self._up_s: float | None = None

    def up(self, now_s: float) -> None:
        """The connection is up."""
        self._up_s = now_s

    def down(self, now_s: float, *, next_server: bool) -> None:
        """The attempt or connection has ended; `next_server`: it was ended in order to go to the next one."""
        up_s, self._up_s = self._up_s, None
        if up_s is not None and now_s - up_s >= STEADY_S:
            self._backoff.reset()
            self._tried = 0
        if next_server or up_s is None:
            self.index = (self.index + 1) % self._servers
            self._tried += 1
            self.at_s = now_s + (SOON_S if self._tried % self._servers else self._backoff.wait())
        else:
            self.at_s = now_s + self._backoff.wait()
