"""Alarms leave the hub. A page (incidents that are one call to a person) is notified to each channel that wants it.

`pages` reads them, `plan` decides what is notified and when (pure), `outgoing` does it and keeps it in the database;
one module a kind of channel carries the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.messages import Priority

RANK: dict[str, int] = {"low": 0, "medium": 1, "high": 2, "critical": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAlarm:
    """One alarm of a page. Times are UTC microseconds; `value` and `limit` are of what it is `about`, '' the value."""

    device: str
    metric: str
    kind: str
    priority: Priority
    value: float
    limit: float
    raised_us: int
    cleared_us: int | None
    about: str = ""
    acknowledged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PageIncident:
    """Alarms of one device about one subject; `path` is where an administrator said it stands.

    `removed`: its device was removed while it stood. `diagnosis` is the desk's, '' when there is none.
    """

    device: str
    subject: str
    path: str
    opened_us: int
    resolved_us: int | None
    alarms: tuple[PageAlarm, ...]
    diagnosis: str = ""
    removed: bool = False

    @property
    def key(self) -> str:
        """The same for whatever is the same trouble to a person: device and subject."""
        return hashlib.blake2b(f"{self.device} {self.subject}".encode(), digest_size=6).hexdigest()

    @property
    def open(self) -> bool:
        """Whether it still stands."""
        return self.resolved_us is None

    @property
    def priority(self) -> Priority:
        """The highest that stands; of one that is over, the highest that it had."""
        standing = [one.priority for one in self.alarms if one.cleared_us is None]
        return max(standing or [one.priority for one in self.alarms], key=RANK.__getitem__)

    def rank(self, *, acknowledged: bool | None = None) -> int:
        """The highest priority of its alarms, or of those that were (not) acknowledged; -1 for none."""
        return max(
            (RANK[one.priority] for one in self.alarms if acknowledged in {None, one.acknowledged}), default=-1
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a person is called for: `id` is its first incident's. Device, subject, path and priority are its worst's.

    `suppressed`: nobody is called for any of it now. `joined` are devices with something new since the message before;
    `message` counts the earlier messages of this page on this channel.
    """

    id: str
    incidents: tuple[PageIncident, ...]
    suppressed: bool = False
    joined: tuple[str, ...] = ()
    message: int = 0

    @property
    def worst(self) -> PageIncident:
        """What stands before what is over, the highest priority first, then the oldest."""
        return min(self.incidents, key=lambda one: (not one.open, -RANK[one.priority], one.opened_us, one.device))

    @property
    def device(self) -> str:
        """Of the worst incident."""
        return self.worst.device

    @property
    def subject(self) -> str:
        """Of the worst incident."""
        return self.worst.subject

    @property
    def path(self) -> str:
        """Of the worst incident."""
        return self.worst.path

    @property
    def priority(self) -> Priority:
        """Of the worst incident."""
        return self.worst.priority

    @property
    def highest(self) -> Priority:
        """The highest priority that any of its alarms ever had."""
        return max((one.priority for one in self.alarms), key=RANK.__getitem__)

    @property
    def opened_us(self) -> int:
        """When its first incident was opened."""
        return min(one.opened_us for one in self.incidents)

    @property
    def resolved_us(self) -> int | None:
        """When its last incident was resolved; None while one stands."""
        ends = [one.resolved_us for one in self.incidents]
        return None if None in ends else max(end for end in ends if end is not None)

    @property
    def open(self) -> bool:
        """Whether any of it still stands."""
        return any(one.open for one in self.incidents)

    @property
    def acknowledged(self) -> bool:
        """Whether somebody has seen all that stands."""
        standing = [alarm for one in self.incidents if one.open for alarm in one.alarms if alarm.cleared_us is None]
        return bool(standing) and all(alarm.acknowledged for alarm in standing)

    @property
    def removed(self) -> bool:
        """Whether nothing is left of it but what removed devices began."""
        return all(one.removed for one in self.incidents)

    @property
    def devices(self) -> tuple[str, ...]:
        """All that are concerned, the worst first."""
        order = sorted(self.incidents, key=lambda one: (not one.open, -RANK[one.priority], one.opened_us, one.device))
        return tuple(dict.fromkeys(one.device for one in order))

    @property
    def alarms(self) -> tuple[PageAlarm, ...]:
        """All of its alarms: those that stand first, the worst first, then the oldest."""
        alarms = (alarm for one in self.incidents for alarm in one.alarms)
        return tuple(
            sorted(alarms, key=lambda one: (one.cleared_us is not None, -RANK[one.priority], one.raised_us, one.device))
        )  # fmt: skip

    @property
    def diagnosis(self) -> str:
        """The worst incident's, else the first that has one."""
        return self.worst.diagnosis or next((one.diagnosis for one in self.incidents if one.diagnosis), "")


class Sender(Protocol):
    """A kind of channel. Each call is one message, however many pages there are."""

    most: int
    """Pages that one message holds."""

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        """Tell these pages, each as it stands: open, or resolved.

        Raises NotReady (not reached, too late, overloaded: with the wait it asks for) or ConfigError (refused: somebody
        must act). Neither shows an address or a secret. What was told may be told again: a hub can die in between.
        """
        ...
