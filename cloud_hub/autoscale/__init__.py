"""Scales the instances of targets on their platforms.

`core.policy` decides (pure), `worker` observes and stores each decision, and `Scaler` is the plug-in interface of a
platform, with one module per platform in `platforms/`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from shared.errors import NotReady, TidegateError


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a platform says about a target, in instances. None: the platform does not say.

    `minimum` and `maximum` are the platform's own limits; it refuses a count outside them.
    """

    desired: int
    ready: int | None = None
    minimum: int | None = None
    maximum: int | None = None


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """Another writer changed the desired count: `expected` was set last, `found` holds now."""

    expected: int
    found: int

    def __str__(self) -> str:
        return f"another writer changed the count: expected {self.expected}, found {self.found}"


def drift(expected: int | None, counts: Counts) -> Drift | None:
    """The drift since this hub set or confirmed `expected`; None if there is none, or nothing is expected."""
    if expected is None or expected == counts.desired:
        return None
    return Drift(expected=expected, found=counts.desired)


class ScaleRefused(TidegateError):
    """The platform refuses permanently; `reason` names who must act."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Drifted(NotReady):
    """Another writer was faster, or undid the call. The key is spent: decide again on the count `drift.found`."""

    def __init__(self, name: str, before: int, expected: int, found: int) -> None:
        self.before, self.drift = before, Drift(expected=expected, found=found)
        lost = f"the call was lost or undone: expected {expected}, found {found}"
        reason = lost if found == before else str(self.drift)
        super().__init__(f"{name}: {reason} (before: {before}); no action needed, decide again", 0.0)


class Scaler(Protocol):
    """A scalable workload on a platform. `tests/examiners/scalers.py` checks every implementation."""

    name: str

    def current(self) -> Counts:
        """The counts, read from the platform. Raises ScaleRefused, or NotReady if the platform cannot be reached."""
        ...

    def scale(self, to: int, key: str, *, dry_run: bool = False) -> int:
        """Set the desired count to `to` and return the desired count.

        `key` is the idempotency key of the decision: a repeated call never acts twice, even after a timeout. With
        `dry_run` everything that can be checked is checked, and nothing changes. Raises ScaleRefused if `to` is
        negative or over a limit of the platform, NotReady if the platform cannot be reached, Drifted (a NotReady) if
        another writer was faster.
        """
        ...
