"""A scaler of which a repeated call never acts twice, whatever the platform's API offers.

    read -> spent key? -> limits -> write -> read back

A write whose outcome is unknown (no answer, a failing server) is repeated under the same key only where the platform
itself makes the repeat harmless: by an optimistic lock, or by an idempotency key of its own. Elsewhere the key is
spent: what holds is read back, and the policy decides anew with a new key.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from cloud_hub.autoscale import Counts, Drifted, ScaleRefused
from shared.errors import NotReady

REMEMBERED = 256
WRITE_WITHIN_S = 5.0
"""A write starts within this time of the call of `scale`, or not at all: the caller's lease may end later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The counts, and the version of the object that has them ("" where the platform has no optimistic lock)."""

    counts: Counts
    version: str = ""


class OutcomeUnknown(NotReady):
    """A write that may have been carried out."""


class Conflict(NotReady):
    """A write that was not carried out, because another writer was faster."""


class Platform(Protocol):
    """What a platform's API can do. Each method raises NotReady or ScaleRefused."""

    name: str
    repeatable: bool
    """A repeated `write` with the same arguments acts at most once."""

    def read(self) -> Reading:
        """What holds now."""
        ...

    def write(self, to: int, key: str, seen: Reading) -> None:
        """Set the desired count once. Raises OutcomeUnknown if it may have been set, Conflict if another was faster."""
        ...

    def rehearse(self, to: int, seen: Reading) -> None:
        """Let the platform check the write without carrying it out, if it can."""
        ...


@dataclass(frozen=True, slots=True)
class _Attempt:
    to: int
    seen: Reading


class IdempotentScaler:
    """The `Scaler` of a platform. One call at a time; keys are remembered by this object, not across a restart."""

    def __init__(self, platform: Platform) -> None:
        self.name = platform.name
        self._platform = platform
        self._done: deque[str] = deque(maxlen=REMEMBERED)
        self._unknown: dict[str, _Attempt] = {}

    def current(self) -> Counts:
        """See `Scaler`."""
        return self._platform.read().counts

    def scale(self, to: int, key: str, *, dry_run: bool = False) -> int:
        """See `Scaler`."""
        if to < 0:
            raise ScaleRefused(f"{self.name}: {to} instances cannot be; correct the target's bounds")
        started = time.monotonic()
        seen = self._platform.read()
        if dry_run:
            self._check_limits(to, seen.counts)
            self._platform.rehearse(to, seen)
            return to
        attempt = self._unknown.get(key)
        if key in self._done or seen.counts.desired == to:
            return self._spent(key, seen)
        if attempt is not None and not self._platform.repeatable:
            return self._settled(key, attempt, seen)
        if attempt is None:
            self._check_limits(to, seen.counts)
            attempt = _Attempt(to, seen)
        if time.monotonic() - started > WRITE_WITHIN_S:
            raise NotReady(f"{self.name}: reading took over {WRITE_WITHIN_S:g} s, so nothing was written", 1.0)
        return self._write(key, attempt)

    def _write(self, key: str, attempt: _Attempt) -> int:
        repeated = key in self._unknown
        self._remember(key, attempt)  # also while an unforeseen error passes through here
        try:
            self._platform.write(attempt.to, key, attempt.seen)
        except OutcomeUnknown:
            raise
        except Conflict:
            return self._after_conflict(key, attempt, repeated=repeated)
        except (NotReady, ScaleRefused):
            if not repeated:
                self._unknown.pop(key, None)
            raise
        return self._settled(key, attempt, self._read_back(key))

    def _after_conflict(self, key: str, attempt: _Attempt, *, repeated: bool) -> int:
        """Another writer was faster, or only the status changed, or the first try was carried out."""
        if repeated:
            return self._settled(key, attempt, self._read_back(key))
        self._unknown.pop(key, None)
        seen = self._platform.read()
        if seen.counts.desired != attempt.seen.counts.desired:
            return self._settled(key, attempt, seen)
        raise NotReady(f"{self.name}: it changed since it was read; no action needed", 0.0)

    def _read_back(self, key: str) -> Reading:
        self._spend(key)  # also if the platform cannot be read now
        return self._platform.read()

    def _settled(self, key: str, attempt: _Attempt, seen: Reading) -> int:
        """The count after the end of an attempt, which is not to be repeated."""
        self._spend(key)
        found = seen.counts.desired
        if found != attempt.to:
            raise Drifted(self.name, attempt.seen.counts.desired, attempt.to, found)
        return found

    def _spent(self, key: str, seen: Reading) -> int:
        self._spend(key)
        return seen.counts.desired

    def _spend(self, key: str) -> None:
        self._unknown.pop(key, None)
        if key not in self._done:
            self._done.append(key)

    def _remember(self, key: str, attempt: _Attempt) -> None:
        if len(self._unknown) >= REMEMBERED:
            self._spend(next(iter(self._unknown)))
        self._unknown[key] = attempt

    def _check_limits(self, to: int, counts: Counts) -> None:
        for limit, beyond, name in (
            (counts.maximum, counts.maximum is not None and to > counts.maximum, "maximum"),
            (counts.minimum, counts.minimum is not None and to < counts.minimum, "minimum"),
        ):
            if beyond:
                cure = f"the platform's operator must change its {name}, or correct the target's bounds"
                raise ScaleRefused(f"{self.name}: {to} is beyond the platform's {name} of {limit}: {cure}")
