"""The queue of the gateway: who starts first, who is refused, and that nobody starves; seeded bugs are found."""

from __future__ import annotations

import random
from bisect import insort
from typing import Any

import pytest

from cloud_hub.inference.gateway.core.classes import CLASSES, RequestClass, slot_limit
from cloud_hub.inference.gateway.core.queue import AdmissionQueue, Ticket


def ticket(name: RequestClass = "normal", at: float = 0.0, deadline_s: float = 1000.0, tenant: str = "t") -> Ticket:
    return Ticket(tenant=tenant, request_class=name, arrived=at, deadline=at + deadline_s)


def test_the_request_that_is_due_first_starts_first() -> None:
    queue = AdmissionQueue(slots=1, capacity=10)
    low, normal, urgent, soon = ticket("low"), ticket("normal"), ticket("emergency", 0.5), ticket("low", 0.2, 0.9)
    for one in (low, normal, urgent, soon):
        assert queue.offer(one, one.arrived).refusal is None
    order = []
    for now in range(1, 5):
        started = queue.start_next(0.5)
        assert started is not None
        assert queue.start_next(0.5) is None, "one slot"
        order.append(started)
        queue.finish(started, float(now))
    assert order == [soon, urgent, normal, low]


@pytest.mark.parametrize("slots", [1, 2, 8, 64])
def test_classes_that_can_wait_leave_slots_free(slots: int) -> None:
    assert slot_limit("emergency", slots) == slots
    assert 1 <= slot_limit("low", slots) <= slot_limit("normal", slots) <= slots
    queue = AdmissionQueue(slots=slots, capacity=1000)
    for _ in range(2 * slots):
        queue.offer(ticket("low", tenant="a"), 0.0)
        queue.offer(ticket("normal", tenant="b"), 0.0)
    while queue.start_next(0.0):
        pass
    assert queue.running == slot_limit("normal", slots)
    queue.offer(ticket("emergency"), 0.0)
    assert (queue.start_next(0.0) is not None) == (slots > 1)


def test_a_full_queue_takes_an_emergency_in_the_place_of_the_least_urgent() -> None:
    queue = AdmissionQueue(slots=1, capacity=3)
    waiting = [ticket("low", at, tenant=f"t{at}") for at in (0.0, 1.0, 2.0)]
    for one in waiting:
        assert queue.offer(one, one.arrived).refusal is None
    refused = queue.offer(ticket("low", 3.0), 3.0).refusal
    assert refused is not None
    assert (refused.code, refused.status) == ("queue_full", 429)
    assert refused.retry_after_s
    admitted = queue.offer(ticket("emergency", 3.0), 3.0)
    assert admitted.refusal is None
    assert admitted.replaced is waiting[2]
    assert len(queue) == 3


def test_one_tenant_cannot_fill_the_queue() -> None:
    queue = AdmissionQueue(slots=1, capacity=10)
    results = [queue.offer(ticket(tenant="loud"), 0.0).refusal for _ in range(6)]
    assert [refusal is None for refusal in results] == [True] * 5 + [False]
    assert queue.offer(ticket(tenant="calm"), 0.0).refusal is None


def test_a_request_that_would_wait_past_its_deadline_is_refused_at_once() -> None:
    queue = AdmissionQueue(slots=1, capacity=100)
    first = ticket()
    queue.offer(first, 0.0)
    assert queue.start_next(0.0) is first
    queue.finish(first, 10.0)
    queue.offer(ticket(), 10.0)
    assert queue.start_next(10.0)
    queue.offer(ticket(tenant="a"), 10.0)
    refusal = queue.offer(ticket("low", 10.0, 5.0), 10.0).refusal
    assert refusal is not None
    assert refusal.code == "deadline"
    assert "10.0 s" in refusal.reason


def test_a_request_that_leaves_the_queue_is_not_started() -> None:
    queue = AdmissionQueue(slots=1, capacity=10)
    gone, fine = ticket(), ticket()
    for one in (gone, fine):
        queue.offer(one, 0.0)
    assert queue.remove(gone)
    assert not queue.remove(gone)
    assert queue.start_next(1.0) is fine
    queue.finish(gone, 2.0)
    assert queue.running == 1


# -- simulated sessions --------------------------------------------------------------------------------


def simulate(kind: type[AdmissionQueue], seed: int, count: int = 1500) -> dict[str, Any]:
    """Sessions of three classes before eight slots that low-class work alone would saturate."""
    chance = random.Random(seed)
    queue = kind(slots=8, capacity=4 * count)
    arrivals = sorted((chance.uniform(0, 120), chance.choices(list(CLASSES), (1, 4, 15))[0]) for _ in range(count))
    running: list[tuple[float, int, Ticket]] = []
    waits: dict[str, list[float]] = {name: [] for name in CLASSES}
    most, now, number = 0, 0.0, 0
    while arrivals or running or len(queue):
        if arrivals and (not running or arrivals[0][0] <= running[0][0]):
            now, name = arrivals.pop(0)
            one = Ticket(tenant=f"t{number % 50}", request_class=name, arrived=now, deadline=now + 1e6)
            number += 1
            assert queue.offer(one, now).refusal is None
        else:
            now, _, one = running.pop(0)
            queue.finish(one, now)
        while started := queue.start_next(now):
            number += 1
            waits[started.request_class].append(now - started.arrived)
            insort(running, (now + chance.expovariate(1 / (0.2 if started.request_class == "emergency" else 1.0)),
                             number, started))  # fmt: skip
            most = max(most, len(running))
    return {"waits": waits, "most": most, "served": sum(map(len, waits.values()))}


def problems(kind: type[AdmissionQueue]) -> set[str]:
    found = set()
    for seed in range(3):
        result = simulate(kind, seed)
        waits = {name: sorted(values) for name, values in result["waits"].items()}
        if result["most"] > 8:
            found.add("more requests than slots")
        if result["served"] != 1500:
            found.add("lost")
        if waits["emergency"][int(0.99 * len(waits["emergency"]))] > 1.0:
            found.add("emergencies wait")
        if waits["low"][-1] > CLASSES["low"].patience_s + 120:
            found.add("starved")
    return found


class FirstComeFirstServed(AdmissionQueue):
    """Bug: classes are ignored."""

    def offer(self, ticket: Ticket, now: float) -> Any:
        ticket.due = ticket.arrived
        return super().offer(ticket, now)


class WithoutReserve(AdmissionQueue):
    """Bug: a class may occupy every slot."""

    def _has_slot(self, name: RequestClass) -> bool:
        return self.running < self._slots


class TooManySlots(AdmissionQueue):
    """Bug: a finished request frees two slots."""

    def finish(self, ticket: Ticket, now: float) -> None:
        super().finish(ticket, now)
        if self._running["low"]:
            self._running["low"] -= 1


def test_emergencies_wait_less_than_a_second_while_low_class_work_saturates_and_nobody_starves() -> None:
    assert problems(AdmissionQueue) == set()


@pytest.mark.parametrize(
    ("bug", "shows"),
    [(FirstComeFirstServed, "emergencies wait"), (TooManySlots, "more requests than slots")],
)  # fmt: skip
def test_a_seeded_bug_is_found(bug: type[AdmissionQueue], shows: str) -> None:
    assert shows in problems(bug)


def test_without_a_reserve_emergencies_wait_for_long_low_class_requests() -> None:
    def waits(kind: type[AdmissionQueue]) -> bool:
        queue = kind(slots=4, capacity=100)
        for _ in range(10):
            queue.offer(ticket("low", tenant="a"), 0.0)
        while queue.start_next(0.0):
            pass
        queue.offer(ticket("emergency"), 0.0)
        return queue.start_next(0.0) is None

    assert not waits(AdmissionQueue)
    assert waits(WithoutReserve)
