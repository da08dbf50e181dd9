"""The bounded queue of a pool: earliest deadline first, with admission control and slots reserved by class.

A request is due at the earlier of its deadline and its arrival plus the patience of its class (`classes`). The waiting
request that is due first starts first, so no class starves: what has waited longer than its patience goes before
everything that arrives later. Classes that can wait leave some slots free: a running request is not interrupted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from typing import Any

from cloud_hub.inference.gateway.core.classes import CLASSES, RequestClass, slot_limit
from cloud_hub.inference.gateway.core.refusals import Refusal

SMOOTHING = 0.1
"""The weight of the newest request in the mean service time."""
TENANT_SHARE = 0.5
"""The share of the queue that one tenant may fill."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request in the queue. `deadline` and `arrived` are monotonic seconds."""

    tenant: str
    request_class: RequestClass
    arrived: float
    deadline: float
    item: Any = None
    started: float | None = None
    due: float = field(init=False)

    def __post_init__(self) -> None:
        self.due = min(self.deadline, self.arrived + CLASSES[self.request_class].patience_s)


@dataclass(frozen=True, slots=True)
class Admission:
    """The decision on a new request: refused, or admitted, perhaps in the place of the less urgent `replaced`."""

    refusal: Refusal | None = None
    replaced: Ticket | None = None


class AdmissionQueue:
    """The queue before `slots` slots. It holds at most `capacity` waiting requests."""

    def __init__(self, *, slots: int, capacity: int) -> None:
        self._slots, self._capacity = slots, capacity
        self._limits = {name: slot_limit(name, slots) for name in CLASSES}
        self._waiting: dict[RequestClass, list[Ticket]] = {name: [] for name in CLASSES}
        self._running: dict[RequestClass, int] = dict.fromkeys(CLASSES, 0)
        self._tenants: dict[str, int] = {}
        self._service_s: float | None = None

    @property
    def waiting(self) -> dict[RequestClass, int]:
        """The number of waiting requests by class."""
        return {name: len(tickets) for name, tickets in self._waiting.items()}

    @property
    def running(self) -> int:
        """The number of occupied slots."""
        return sum(self._running.values())

    def offer(self, ticket: Ticket, now: float) -> Admission:
        """Admit a request or refuse it."""
        refusal = self._refusal(ticket, now)
        replaced = None
        if refusal is None and len(self) >= self._capacity:
            replaced = self._least_urgent(than=ticket)
            refusal = self._full(now) if replaced is None else None
        if refusal is not None:
            return Admission(refusal=refusal)
        if replaced is not None:
            self.remove(replaced)
        insort(self._waiting[ticket.request_class], ticket, key=_due)
        self._tenants[ticket.tenant] = self._tenants.get(ticket.tenant, 0) + 1
        return Admission(replaced=replaced)

    def start_next(self, now: float) -> Ticket | None:
        """Occupy a slot with the request that is due first among the classes that may have one more slot."""
        free = self.running < self._slots
        ready = [tickets[0] for name, tickets in self._waiting.items() if tickets and self._has_slot(name)]
        if not free or not ready:
            return None
        ticket = min(ready, key=_due)
        self.remove(ticket)
        self._running[ticket.request_class] += 1
        ticket.started = now
        return ticket

    def remove(self, ticket: Ticket) -> bool:
        """Take a waiting request out; False if it does not wait."""
        tickets = self._waiting[ticket.request_class]
        first, end = (cut(tickets, ticket.due, key=_due) for cut in (bisect_left, bisect_right))
        index = next((index for index in range(first, end) if tickets[index] is ticket), None)
        if index is None:
            return False
        del tickets[index]
        self._forget(ticket.tenant)
        return True

    def finish(self, ticket: Ticket, now: float) -> None:
        """Free the slot of a running request."""
        if ticket.started is None:
            return
        self._running[ticket.request_class] -= 1
        took, ticket.started = now - ticket.started, None
        before = self._service_s
        self._service_s = took if before is None else before + SMOOTHING * (took - before)

    def expected_wait_s(self, ticket: Ticket) -> float:
        """How long a request would wait: the requests before it, at the mean service time."""
        limit = self._limits[ticket.request_class]
        before = sum(bisect_right(tickets, ticket.due, key=_due) for tickets in self._waiting.values())
        if self._service_s is None or (before == 0 and self._has_slot(ticket.request_class)):
            return 0.0
        return (before + 1) * self._service_s / limit

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    # -- admission -----------------------------------------------------------------------------------

    def _has_slot(self, name: RequestClass) -> bool:
        """Whether the class may occupy one more slot: each class shares its limit with the less urgent ones."""
        if self.running >= self._slots:
            return False
        own = CLASSES[name].priority
        return all(
            self._occupied(policy.priority) < self._limits[other]
            for other, policy in CLASSES.items()
            if policy.priority <= own
        )

    def _occupied(self, priority: int) -> int:
        """Slots of classes that are no more urgent than this."""
        return sum(count for name, count in self._running.items() if CLASSES[name].priority >= priority)

    def _refusal(self, ticket: Ticket, now: float) -> Refusal | None:
        if ticket.deadline <= now:
            return Refusal(code="deadline", reason="the deadline has passed: give more time")
        if self._tenants.get(ticket.tenant, 0) >= max(1, int(self._capacity * TENANT_SHARE)):
            reason = f"'{ticket.tenant}' has {self._tenants[ticket.tenant]} requests waiting: wait for their answers"
            return Refusal(code="queue_full", reason=reason, retry_after_s=self._drain_s())
        wait_s = self.expected_wait_s(ticket)
        if now + wait_s > ticket.deadline:
            reason = f"the expected wait of {wait_s:.1f} s is longer than the deadline: give more time, or ask later"
            return Refusal(code="deadline", reason=reason, retry_after_s=self._drain_s())
        return None

    def _least_urgent(self, than: Ticket) -> Ticket | None:
        """The waiting request of the least urgent class that is due last, if that class is less urgent."""
        for name in reversed(CLASSES):
            if CLASSES[name].priority > CLASSES[than.request_class].priority and self._waiting[name]:
                return self._waiting[name][-1]
        return None

    def _full(self, now: float) -> Refusal:
        reason = f"{len(self)} requests wait already: ask later"
        return Refusal(code="queue_full", reason=reason, retry_after_s=self._drain_s())

    def _drain_s(self) -> float:
        return max(1.0, round(len(self) * (self._service_s or 1.0) / self._slots / 2, 1))

    def _forget(self, tenant: str) -> None:
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]


def _due(ticket: Ticket) -> float:
    return ticket.due
