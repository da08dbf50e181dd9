"""Sends notifications of alarms to channels: webhook, e-mail, chat robots, Alertmanager.

The unit of notification is a page: incidents that are notified together. `pages` loads them, `core.routing` decides
what is sent and when, `delivery` runs one worker for each channel, and each kind of channel has a module of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.protocol.messages import Priority

RANK: dict[str, int] = {"low": 0, "medium": 1, "high": 2, "critical": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAlarm:
    """One alarm of a page. Times are UTC microseconds; `value` and `limit` belong to what the alarm is `about`."""

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
    """An incident: alarms of one device and one subject. `path` is the asset path that an administrator assigned.

    `removed`: the device was removed while the incident was open. `diagnosis` is empty when there is none. `explains`:
    the topology says that it is the cause of the others of its page, though it was not the first.
    """

    device: str
    subject: str
    path: str
    opened_us: int
    resolved_us: int | None
    alarms: tuple[PageAlarm, ...]
    diagnosis: str = ""
    removed: bool = False
    explains: bool = False

    @property
    def key(self) -> str:
        """Identifies the problem across incidents: a hash of device and subject."""
        return hashlib.blake2b(f"{self.device} {self.subject}".encode(), digest_size=6).hexdigest()

    @property
    def open(self) -> bool:
        """Whether the incident is unresolved."""
        return self.resolved_us is None

    @property
    def priority(self) -> Priority:
        """The highest priority of its raised alarms; of all its alarms when none is raised."""
        raised = [alarm.priority for alarm in self.alarms if alarm.cleared_us is None]
        return max(raised or [alarm.priority for alarm in self.alarms], key=RANK.__getitem__)

    def rank(self, *, acknowledged: bool | None = None) -> int:
        """The highest priority of its alarms, or of those that were (not) acknowledged; -1 for none."""
        return max(
            (RANK[alarm.priority] for alarm in self.alarms if acknowledged in {None, alarm.acknowledged}), default=-1
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Incidents that are notified together. `id` is the id of the first one.

    Device, subject and path are those of the incident that explains the others, else of the worst; the priority is that
    of the worst. `suppressed`: all its alarms are suppressed.
    `joined` are devices with new alarms since the last message; `message` counts the earlier messages of this page on
    this channel.
    """

    id: str
    incidents: tuple[PageIncident, ...]
    suppressed: bool = False
    joined: tuple[str, ...] = ()
    message: int = 0

    @property
    def worst(self) -> PageIncident:
        """The worst incident: open before resolved, then by priority, then the oldest."""
        return min(
            self.incidents,
            key=lambda incident: (not incident.open, -RANK[incident.priority], incident.opened_us, incident.device),
        )

    @property
    def named(self) -> PageIncident:
        """The incident that the page is named after: the cause of the others while it is open, else the worst."""
        return next((incident for incident in self.incidents if incident.explains and incident.open), self.worst)

    @property
    def device(self) -> str:
        """Taken from the incident that the page is named after."""
        return self.named.device

    @property
    def subject(self) -> str:
        """Taken from the incident that the page is named after."""
        return self.named.subject

    @property
    def path(self) -> str:
        """Taken from the incident that the page is named after."""
        return self.named.path

    @property
    def priority(self) -> Priority:
        """Taken from the worst incident."""
        return self.worst.priority

    @property
    def highest(self) -> Priority:
        """The highest priority of all its alarms, cleared ones included."""
        return max((alarm.priority for alarm in self.alarms), key=RANK.__getitem__)

    @property
    def opened_us(self) -> int:
        """When its first incident was opened."""
        return min(incident.opened_us for incident in self.incidents)

    @property
    def resolved_us(self) -> int | None:
        """When the last incident was resolved; None while any is open."""
        ends = [incident.resolved_us for incident in self.incidents]
        return None if None in ends else max(end for end in ends if end is not None)

    @property
    def open(self) -> bool:
        """Whether any incident is open."""
        return any(incident.open for incident in self.incidents)

    @property
    def acknowledged(self) -> bool:
        """Whether all raised alarms of open incidents are acknowledged."""
        raised = [
            alarm
            for incident in self.incidents
            if incident.open
            for alarm in incident.alarms
            if alarm.cleared_us is None
        ]
        return bool(raised) and all(alarm.acknowledged for alarm in raised)

    @property
    def removed(self) -> bool:
        """Whether all its incidents belong to removed devices."""
        return all(incident.removed for incident in self.incidents)

    @property
    def devices(self) -> tuple[str, ...]:
        """The affected devices, the one that the page is named after first, then the worst."""
        order = sorted(
            self.incidents,
            key=lambda incident: (not incident.open, -RANK[incident.priority], incident.opened_us, incident.device),
        )
        return tuple(dict.fromkeys(incident.device for incident in (self.named, *order)))

    @property
    def alarms(self) -> tuple[PageAlarm, ...]:
        """All its alarms: raised before cleared, then by priority, then the oldest."""
        alarms = (alarm for one in self.incidents for alarm in one.alarms)
        return tuple(
            sorted(alarms, key=lambda one: (one.cleared_us is not None, -RANK[one.priority], one.raised_us, one.device))
        )  # fmt: skip

    @property
    def diagnosis(self) -> str:
        """The diagnosis of the incident that the page is named after, or else the first one there is."""
        return self.named.diagnosis or next(
            (incident.diagnosis for incident in self.incidents if incident.diagnosis), ""
        )


class Sender(Protocol):
    """Sends messages over one channel. Each call is one message, however many pages it covers."""

    most: int
    """The maximum number of pages in one message."""

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        """Send the current state of these pages, open or resolved, in one message.

        Raises NotReady (unreachable, timed out or overloaded; with the wait that it asks for) or ConfigError (rejected:
        an operator must act). Error texts show no address and no secret. A message may be sent twice: the hub can be
        killed before it records the outcome.
        """
        ...
