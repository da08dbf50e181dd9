"""Which requests read all tags: neighbours are read together, and a tag that the device refuses is found and parked.

A device answers a request with one exception for all of it. So a refused batch is first read without its gaps
(addresses that no tag wants and that may not exist), then in halves, until single tags are left. A tag that is refused
alone is parked, and tried again with backoff; the others go on, and are joined again around it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from edge_agent.collectors.modbus.core.addresses import BIT_TABLES, Table

PARK_FIRST_S, PARK_LIMIT_S = 5.0, 600.0


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """`count` registers or bits of one tag."""

    unit_id: int
    table: Table
    address: int
    count: int
    index: int

    @property
    def end(self) -> int:
        """Address after the last one."""
        return self.address + self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Most registers and bits of a request (MODBUS Application Protocol V1.1b3, 6.1 to 6.4: 125 and 2000), and most
    registers or bits that are read though no tag wants them, to join two tags."""

    registers: int = 125
    bits: int = 2000
    gap: int = 8

    def of(self, table: Table) -> int:
        """Most registers or bits of a request to `table`."""
        return self.bits if table in BIT_TABLES else self.registers


@dataclass(frozen=True, slots=True)
class Batch:
    """One request: the items are in the order of their addresses."""

    items: tuple[Item, ...]

    @property
    def unit_id(self) -> int:
        """Unit that is asked."""
        return self.items[0].unit_id

    @property
    def table(self) -> Table:
        """Table that is read."""
        return self.items[0].table

    @property
    def address(self) -> int:
        """First address."""
        return self.items[0].address

    @property
    def count(self) -> int:
        """Registers or bits to read."""
        return max(item.end for item in self.items) - self.address


def plan(items: Iterable[Item], limits: Limits, without: Container[int] = ()) -> list[Batch]:
    """Requests that read all items; items of one request are of one unit and table, at most `limits.gap` apart. Items
    whose index is in `without` are neither read nor read across.
    """
    batches: list[Batch] = []
    run: list[Item] = []
    end = 0
    for item in sorted(items):
        left_out = item.index in without
        if run and (left_out or not _joins(run[0], end, item, limits)):
            batches.append(Batch(tuple(run)))
            run = []
        if not left_out:
            end = max(end, item.end) if run else item.end
            run.append(item)
    return [*batches, Batch(tuple(run))] if run else batches


def _joins(first: Item, end: int, item: Item, limits: Limits) -> bool:
    same = (first.unit_id, first.table) == (item.unit_id, item.table)
    whole = max(end, item.end) - first.address
    return same and item.address - end <= limits.gap and whole <= limits.of(item.table)


def smaller(batch: Batch, limits: Limits) -> list[Batch]:
    """What to read in place of a refused batch; empty if it is a single tag."""
    dense = plan(batch.items, Limits(registers=limits.registers, bits=limits.bits, gap=0))
    if len(dense) > 1:
        return dense
    middle = len(batch.items) // 2
    return [Batch(half) for half in (batch.items[:middle], batch.items[middle:]) if half] if middle else []


@dataclass(slots=True)
class _Parked:
    batch: Batch
    next_s: float
    wait_s: float = field(default=PARK_FIRST_S)


class PollPlan:
    """The requests of one polling group, as far as the device has taught which of them it answers."""

    def __init__(self, items: Sequence[Item], limits: Limits) -> None:
        self._limits, self._items = limits, tuple(items)
        self._batches = plan(items, limits)
        self._parked: dict[int, _Parked] = {}
        self._changed = False
        """A tag was parked since the last reading, so the others can be joined again."""

    def batches(self, now_s: float) -> list[Batch]:
        """Requests of one reading, parked tags whose time has come among them."""
        if self._changed:
            self._changed, self._batches = False, plan(self._items, self._limits, self._parked)
        return [*self._batches, *(one.batch for one in self._parked.values() if one.next_s <= now_s)]

    def refused(self, batch: Batch, now_s: float, *, whole: bool = False) -> list[Batch]:
        """The device refused this request: what to read instead, now. Single tags are parked instead; with `whole`
        all its tags are, because the device refuses the function.
        """
        index = batch.items[0].index
        if len(batch.items) == 1 and index in self._parked:
            parked = self._parked[index]
            parked.wait_s = min(2 * parked.wait_s, PARK_LIMIT_S)
            parked.next_s = now_s + parked.wait_s
            return []
        parts = [Batch((item,)) for item in batch.items] if whole else smaller(batch, self._limits)
        if whole or not parts:
            for part in parts or [batch]:
                self._parked[part.items[0].index] = _Parked(part, now_s + PARK_FIRST_S)
            parts, self._changed = [], True
        at = self._batches.index(batch)
        self._batches[at : at + 1] = parts
        return parts

    def answered(self, batch: Batch) -> None:
        """The device answered this request: a parked tag is read regularly again."""
        if len(batch.items) == 1 and self._parked.pop(batch.items[0].index, None) is not None:
            self._batches.append(batch)

    @property
    def parked(self) -> Iterator[int]:
        """Indexes of the parked tags."""
        return iter(self._parked)
