"""Simulated sessions before the gateway's queue, beside first come first served: who waits how long."""

from __future__ import annotations

import heapq
import random

from benchmarks.report import Row, percentiles
from cloud_hub.inference.gateway.core.classes import CLASSES, RequestClass
from cloud_hub.inference.gateway.core.queue import AdmissionQueue, Ticket

SLOTS = 64
SERVICE_S: dict[RequestClass, float] = {"emergency": 1.5, "normal": 4.0, "low": 12.0}
SHARES: dict[RequestClass, float] = {"emergency": 0.03, "normal": 0.27, "low": 0.70}
LOAD = 1.3
"""Work offered, as a share of what the slots can do: low-class work saturates the pool."""


class _FirstCome(AdmissionQueue):
    """The same without classes."""

    def offer(self, ticket: Ticket, now: float) -> object:  # type: ignore[override]
        """Order by arrival."""
        ticket.due = ticket.arrived
        return super().offer(ticket, now)

    def _has_slot(self, name: RequestClass) -> bool:
        return self.running < self._slots


def simulate_queue(sessions: int, seed: int) -> list[Row]:
    """Waits by class."""
    rows = []
    for method, kind in (("gateway", AdmissionQueue), ("first come first served", _FirstCome)):
        waits, refused = _simulate(kind, sessions, seed)
        for name, values in waits.items():
            p50, p99 = percentiles(values)
            for metric, value in (("p50", p50), ("p99", p99), ("longest", max(values))):
                rows.append(Row(f"{sessions} sessions, {name}", method, f"wait {metric}", value, "s"))
        rows.append(Row(f"{sessions} sessions", method, "never served", sessions - sum(map(len, waits.values())), ""))
        rows.append(Row(f"{sessions} sessions", method, "refused", refused, ""))
    return rows


def _simulate(kind: type[AdmissionQueue], sessions: int, seed: int) -> tuple[dict[RequestClass, list[float]], int]:
    chance = random.Random(seed)
    mean_s = sum(SHARES[name] * SERVICE_S[name] for name in CLASSES)
    horizon_s = sessions * mean_s / (SLOTS * LOAD)
    names = chance.choices(list(SHARES), list(SHARES.values()), k=sessions)
    events: list[tuple[float, int, Ticket, bool]] = []
    for number, name in enumerate(names):
        at = chance.uniform(0, horizon_s)
        ticket = Ticket(tenant=f"tenant-{number % 200}", request_class=name, arrived=at, deadline=at + 1e9)
        heapq.heappush(events, (at, number, ticket, True))
    queue, refused = kind(slots=SLOTS, capacity=sessions), 0
    waits: dict[RequestClass, list[float]] = {name: [] for name in CLASSES}
    while events:
        now, number, ticket, arrives = heapq.heappop(events)
        if arrives:
            queue.offer(ticket, now)
        else:
            queue.finish(ticket, now)
        while (started := queue.start_next(now)) is not None:
            waits[started.request_class].append(now - started.arrived)
            number += sessions
            end = now + chance.expovariate(1 / SERVICE_S[started.request_class])
            heapq.heappush(events, (end, number, started, False))
    return waits, refused
