"""How long the checker waits before it calls something late: "immediately" takes time in a network."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Milliseconds.

    `settle_ms`: data that was on its way when a rebirth request came. `answer_ms`: the births after that request.
    `leave_ms`: the end of a connection after a valid offline STATE. `stay_ms`: how long a node must stay after an
    outdated one. `next_ms`: the next connection of a node that left; it may back off. `birth_ms`: a host's birth after
    CONNECT. `restore_ms`: its birth after an offline STATE of itself. `late_ms`: a rebirth request after the Reorder
    Timeout.
    """

    settle_ms: int = 1000
    answer_ms: int = 15_000
    leave_ms: int = 8000
    stay_ms: int = 4000
    next_ms: int = 120_000
    birth_ms: int = 10_000
    restore_ms: int = 5000
    late_ms: int = 4000

    def times(self, patience: float) -> Deadlines:
        """All of them longer by a factor, except how long a node must stay."""
        longer = {one.name: int(getattr(self, one.name) * patience) for one in fields(self)}
        return Deadlines(**{**longer, "stay_ms": self.stay_ms})


DEFAULT = Deadlines()
