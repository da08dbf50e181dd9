"""Scales the replicas of the hub's workers.

`core.policy` decides (pure), `worker` reads the demand and stores each decision, and `Scaler` is the plug-in interface
of a platform, with one module per platform.
"""

from __future__ import annotations

from typing import Protocol

from shared.errors import TidegateError


class ScaleRefused(TidegateError):
    """The platform refuses permanently; `reason` names who must act."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Scaler(Protocol):
    """A scalable workload on a platform. `tests/examiners/scalers.py` checks every implementation."""

    name: str

    def current(self) -> int:
        """The desired (not ready) replicas. Raises ScaleRefused, or NotReady if the platform cannot be reached."""
        ...

    def scale(self, to: int, key: str) -> int:
        """Set the desired replicas to `to` and return the desired replicas.

        `key` is the idempotency key of the decision: a repeated call never acts twice, even after a timeout. Raises
        ScaleRefused if `to` is negative or over a limit of the platform, NotReady if the platform cannot be reached or
        another writer was faster.
        """
        ...
