"""Alarms leave the hub. A page (an incident, with those that belong to it) is told to each channel that wants it.

`pages` reads them, `plan` decides who is told what and when (pure), `outgoing` does it and keeps it in the database;
one module a kind of channel carries the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.messages import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAlarm:
    """One alarm of a page. Times are UTC microseconds; `value` and `limit` are of what it is `about`, '' the value."""

    metric: str
    kind: str
    priority: Priority
    value: float
    limit: float
    raised_us: int
    cleared_us: int | None
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a person is called for: `id` is its first incident's. `priority` is the highest that it ever had.

    `device`, `subject` and `path` (where an administrator said it stands) are those of the first incident; `devices`
    all that are concerned. `diagnosis` is the desk's word, '' when there is none.
    """

    id: str
    device: str
    subject: str
    path: str
    priority: Priority
    opened_us: int
    resolved_us: int | None
    acknowledged: bool
    devices: tuple[str, ...]
    alarms: tuple[PageAlarm, ...]
    diagnosis: str = ""

    @property
    def open(self) -> bool:
        """Whether it still stands."""
        return self.resolved_us is None


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
