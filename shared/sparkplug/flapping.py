"""Recognises a node that is born again and again, and two nodes with one id."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW_MS = 600_000
BIRTHS = 6
"""Births that nobody asked for within the window that are reported."""
RETURNS = 3
"""Returns of an old bdSeq within the window that are taken for two nodes."""


@dataclass(slots=True)
class BirthHistory:
    """The last births of one node. bdSeq of one node only counts up; those of two nodes alternate."""

    unasked: deque[int] = field(default_factory=lambda: deque(maxlen=BIRTHS))
    returns: deque[int] = field(default_factory=lambda: deque(maxlen=RETURNS))
    numbers: deque[int] = field(default_factory=lambda: deque(maxlen=8))
    reported: bool = False

    def returned(self, bd_seq: int | None, now_ms: int) -> bool:
        """Note the bdSeq of a birth; whether it is an old one that was followed by another."""
        if bd_seq is None or (self.numbers and self.numbers[-1] == bd_seq):
            return False
        old = bd_seq in self.numbers
        self.numbers.append(bd_seq)
        if old:
            self.returns.append(now_ms)
        return old

    def born(self, now_ms: int, *, asked: bool) -> bool:
        """Note a birth; whether the node is found to be flapping by it. Found once, until it has been quiet."""
        if self.unasked and not 0 <= now_ms - self.unasked[-1] < WINDOW_MS:
            self.reported = False
        if not asked:
            self.unasked.append(now_ms)
        found = self.flapping(now_ms)
        new, self.reported = found and not self.reported, self.reported or found
        return new

    def two_nodes(self, now_ms: int) -> bool:
        """Whether old bdSeq numbers keep returning."""
        return _within(self.returns, RETURNS, now_ms)

    def flapping(self, now_ms: int) -> bool:
        """Whether the node is flapping."""
        return self.two_nodes(now_ms) or _within(self.unasked, BIRTHS, now_ms)

    def recent(self, now_ms: int) -> int:
        """Births that nobody asked for within the window, as far as they are counted."""
        return sum(0 <= now_ms - one < WINDOW_MS for one in self.unasked)


def _within(times: deque[int], count: int, now_ms: int) -> bool:
    return len(times) == count and 0 <= now_ms - times[0] < WINDOW_MS
