"""Writes that wait for the client's answer. Each is answered exactly once, at the latest by its deadline."""

from __future__ import annotations

from collections.abc import Callable

MAX_PENDING = 32
OnDone = Callable[[str], None]


class PendingWrites:
    """Callbacks by number. The deadline begins at the first `expire` after the write."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._pending: dict[int, tuple[OnDone, int | None]] = {}
        self._next = 1

    def add(self, on_done: OnDone) -> int | None:
        """The number of a new write; None if too many wait."""
        if len(self._pending) >= MAX_PENDING:
            return None
        number, self._next = self._next, self._next + 1
        self._pending[number] = (on_done, None)
        return number

    def done(self, number: int, reason: str) -> None:
        """Answer one; an answer that comes too late is left out."""
        found = self._pending.pop(number, None)
        if found is not None:
            found[0](reason)

    def expire(self, now_us: int) -> None:
        """Answer those that have waited too long."""
        for number, (on_done, began_us) in list(self._pending.items()):
            if began_us is None or now_us < began_us:  # new, or the clock was set back
                self._pending[number] = (on_done, now_us)
            elif now_us - began_us > self.timeout_s * 1e6:
                self.done(number, f"no answer within {self.timeout_s:g} s: whether it was written is not known")

    def fail_all(self, reason: str) -> None:
        """Answer all."""
        for number in list(self._pending):
            self.done(number, reason)
