"""How many replicas of the hub's workers there should be, and the door through which a platform is asked for them.

`policy` decides (pure); one file per platform carries it out behind `Scaler`. This room never decides who
may act: the composition root holds the lease, reads the demand, and hands both in.
"""

from __future__ import annotations

from typing import Protocol

from shared.errors import TidegateError


class ScaleRefused(TidegateError):
    """The platform says no and will go on saying no: `reason` names the person who must act."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Scaler(Protocol):
    """One scalable thing on one platform. `tests/examiners/scalers.py` says what every scaler must keep."""

    name: str

    def current(self) -> int:
        """Replicas now asked for (not: ready). Raises ScaleRefused, or NotReady when the platform cannot be reached."""
        ...

    def scale(self, to: int, key: str) -> int:
        """Ask for `to` replicas in all and return the replicas now asked for.

        `key` names the decision: a repeat with the same key never acts twice, also after a timeout. Raises
        ScaleRefused when the platform's own limit refuses, NotReady when it cannot be reached or another
        writer was faster; `to` below 0 is refused.
        """
        ...
