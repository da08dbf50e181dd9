"""Batch planning for Modbus in a simulated device: all readable tags are read, bad ones are parked; seeded bugs are
caught.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.modbus.core import planning
from edge_agent.collectors.modbus.core.addresses import Table
from edge_agent.collectors.modbus.core.planning import PARK_LIMIT_S, Batch, Item, Limits, PollPlan, plan, smaller
from edge_agent.collectors.modbus.core.units import FIRST_S, Units

LIMITS = Limits()


@st.composite
def items(draw: st.DrawFn) -> list[Item]:
    """Tags of two units, in registers and bits; some overlap."""
    places = draw(
        st.lists(
            st.tuples(
                st.sampled_from([1, 7]), st.sampled_from(["holding", "coil"]), st.integers(0, 300), st.integers(1, 6)
            ),
            min_size=1,
            max_size=40,
        )
    )
    return [
        Item(unit, table, address, 1 if table == "coil" else count, index)  # type: ignore[arg-type]
        for index, (unit, table, address, count) in enumerate(places)
    ]


@dataclass
class Device:
    """Refuses a request that touches an address which it does not have, as the protocol demands."""

    missing: set[tuple[Table, int]]
    limits: Limits = LIMITS
    requests: list[Batch] = field(default_factory=list)

    def answers(self, batch: Batch) -> bool:
        self.requests.append(batch)
        assert batch.count <= self.limits.of(batch.table), "a request above the protocol's limit"
        assert len({(item.unit_id, item.table) for item in batch.items}) == 1, "a request to two units or tables"
        touched = range(batch.address, batch.address + batch.count)
        return not any((batch.table, address) in self.missing for address in touched)

    def has(self, item: Item) -> bool:
        return not any((item.table, address) in self.missing for address in range(item.address, item.end))


def one_cycle(plan_: PollPlan, device: Device, now_s: float) -> list[int]:
    """Read as the client does; returns the tags that were read."""
    read: list[int] = []
    todo = deque(plan_.batches(now_s))
    while todo:
        batch = todo.popleft()
        if device.answers(batch):
            plan_.answered(batch)
            read += [item.index for item in batch.items]
        else:
            todo.extendleft(reversed(plan_.refused(batch, now_s)))
    return read


def check_world(tags: list[Item], missing: set[tuple[Table, int]], kind: type[PollPlan] = PollPlan) -> None:
    """Each readable tag is read once in every cycle, others never; and the plan comes to rest."""
    device, polled = Device(missing), kind(tags, LIMITS)
    readable = {item.index for item in tags if device.has(item)}
    for cycle in range(6):
        device.requests.clear()
        read = one_cycle(polled, device, now_s=cycle / 10)
        assert Counter(read) == Counter(readable), f"cycle {cycle}"
    assert set(polled.parked) == {item.index for item in tags} - readable
    assert all(device.answers(batch) for batch in list(device.requests)), "still asks for what it was refused"


missing_addresses = st.sets(st.tuples(st.sampled_from(["holding", "coil"]), st.integers(0, 310)), max_size=12)


@given(items(), missing_addresses)
def test_every_readable_tag_is_read_in_every_cycle_and_bad_ones_are_parked(
    tags: list[Item], missing: set[tuple[Table, int]]
) -> None:
    check_world(tags, missing)


@given(items(), st.integers(0, 20))
def test_a_plan_reads_each_tag_once_and_no_gap_above_the_limit(tags: list[Item], gap: int) -> None:
    batches = plan(tags, Limits(gap=gap))
    assert sorted(item.index for batch in batches for item in batch.items) == list(range(len(tags)))
    for batch in batches:
        wanted = {address for item in batch.items for address in range(item.address, item.end)}
        run = 0
        for address in range(batch.address, batch.address + batch.count):
            run = 0 if address in wanted else run + 1
            assert run <= gap


@given(items())
def test_a_refused_batch_is_replaced_by_smaller_ones_with_the_same_tags(tags: list[Item]) -> None:
    for batch in plan(tags, LIMITS):
        parts = smaller(batch, LIMITS)
        assert not parts or Counter(item for part in parts for item in part.items) == Counter(batch.items)
        assert all(len(part.items) < len(batch.items) for part in parts)


def test_neighbours_share_a_request_up_to_125_registers_and_2000_coils() -> None:
    registers = [Item(1, "holding", address, 1, address) for address in range(300)]
    coils = [Item(1, "coil", address, 1, 1000 + address) for address in range(4100)]
    assert [batch.count for batch in plan(registers, LIMITS)] == [125, 125, 50]
    assert [batch.count for batch in plan(coils, LIMITS)] == [2000, 2000, 100]


def test_a_value_of_several_registers_is_never_torn() -> None:
    batches = plan([Item(1, "holding", 4 * index, 4, index) for index in range(40)], LIMITS)
    assert [batch.count for batch in batches] == [124, 36]


def test_one_bad_tag_costs_two_requests_once_the_plan_is_at_rest() -> None:
    tags = [Item(1, "holding", address, 1, address) for address in range(100)]
    device, polled = Device({("holding", 37)}), PollPlan(tags, LIMITS)
    one_cycle(polled, device, 0.0)
    found = len(device.requests)
    assert found <= 16, "it is found by halving"
    device.requests.clear()
    assert len(one_cycle(polled, device, 1.0)) == 99
    assert [(batch.address, batch.count) for batch in device.requests] == [(0, 37), (38, 62)]


def test_a_hole_between_tags_is_no_bad_tag() -> None:
    tags = [Item(1, "holding", address, 1, index) for index, address in enumerate([0, 1, 4, 5])]
    device, polled = Device({("holding", 2)}), PollPlan(tags, LIMITS)
    assert len(one_cycle(polled, device, 0.0)) == 4
    assert not list(polled.parked)


def test_a_parked_tag_is_tried_less_and_less_often_and_comes_back() -> None:
    device, polled = Device({("holding", 1)}), PollPlan([Item(1, "holding", 1, 1, 0)], LIMITS)
    tried = []
    for second in range(4000):
        if polled.batches(float(second)):
            tried.append(second)
            one_cycle(polled, device, float(second))
    waits = [later - earlier for earlier, later in pairwise(tried)]
    assert waits[:4] == [5, 10, 20, 40]
    assert max(waits) == PARK_LIMIT_S
    device.missing.clear()
    assert one_cycle(polled, device, 1e6) == [0]
    assert one_cycle(polled, device, 1e6 + 0.1) == [0], "it is read regularly again"


def test_a_refused_function_parks_all_tags_of_the_request_at_once() -> None:
    polled = PollPlan([Item(1, "coil", address, 1, address) for address in range(50)], LIMITS)
    (batch,) = polled.batches(0.0)
    assert polled.refused(batch, 0.0, whole=True) == []
    assert set(polled.parked) == set(range(50))
    assert polled.batches(1.0) == []


def test_ten_thousand_tags_are_planned_into_the_fewest_requests() -> None:
    tags = [Item(1 + index % 4, "holding", 2 * (index // 4), 2, index) for index in range(10_000)]
    batches = plan(tags, LIMITS)
    assert len(batches) == 4 * -(-2500 // 62), "62 values of two registers fill a request"
    assert sum(len(batch.items) for batch in batches) == 10_000


# -- seeded bugs -----------------------------------------------------------------------------------------


def joins_all(_first: Item, _end: int, _item: Item, _limits: Limits) -> bool:
    """The limit and the unit are forgotten."""
    return True


def halves_only_the_first(batch: Batch, _limits: Limits) -> list[Batch]:
    """The second half is lost."""
    middle = len(batch.items) // 2
    return [Batch(batch.items[:middle])] if middle else []


class ForgetsToJoin(PollPlan):
    """A parked tag is read on with its neighbours."""

    def batches(self, now_s: float) -> list[Batch]:
        self._batches = plan(self._items, self._limits)
        return super().batches(now_s)


DENSE = [Item(1, "holding", address, 1, address) for address in range(100)]
TWO_UNITS = [Item(unit, "holding", 0, 1, unit) for unit in (1, 2)]


@pytest.mark.parametrize(
    ("name", "bug", "tags"), [("_joins", joins_all, TWO_UNITS), ("smaller", halves_only_the_first, DENSE)]
)
def test_the_world_catches_a_seeded_bug(
    name: str, bug: object, tags: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_world(tags, {("holding", 40)})
    monkeypatch.setattr(planning, name, bug)
    with pytest.raises(AssertionError):
        check_world(tags, {("holding", 40)})


def test_the_world_catches_a_plan_that_reads_parked_tags_with_their_neighbours() -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_world(DENSE, {("holding", 40)}, ForgetsToJoin)


# -- silent units ----------------------------------------------------------------------------------------


def test_a_silent_unit_is_asked_less_often_and_does_not_silence_the_others() -> None:
    units = Units({1, 2})
    assert not units.unanswered(2, 0.0), "one lost answer is nothing"
    assert units.unanswered(2, 0.0)
    assert units.is_suspended(2, FIRST_S - 0.1)
    assert not units.is_suspended(1, 0.0)
    assert not units.all_silent
    assert not units.unanswered(2, FIRST_S), "told once"
    assert units.is_suspended(2, FIRST_S + 2 * FIRST_S - 0.1)
    assert units.answered(2)
    assert not units.is_suspended(2, FIRST_S)
    assert not units.answered(2)


def test_when_no_unit_answers_the_connection_is_at_fault() -> None:
    units = Units({1, 2})
    for unit in (1, 2, 1):
        units.unanswered(unit, 0.0)
        assert not units.all_silent
    units.unanswered(2, 0.0)
    assert units.all_silent
