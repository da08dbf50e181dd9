"""The client process of a `modbus` collector: reads the polling groups when they are due, and carries out writes."""

from __future__ import annotations

import math
import struct
import time
from collections import deque
from collections.abc import Iterator
from queue import Empty, Queue
from typing import Any

import msgspec

from edge_agent.clock import now_us
from edge_agent.collectors.modbus import Options
from edge_agent.collectors.modbus.connection import ILLEGAL_FUNCTION, ModbusConnection, NoAnswer, RequestRefused
from edge_agent.collectors.modbus.core.codec import Codec
from edge_agent.collectors.modbus.core.planning import Batch, Item, Limits, PollPlan
from edge_agent.collectors.modbus.core.units import Units
from edge_agent.collectors.modbus.tags import ModbusTag
from edge_agent.collectors.plant.core.schedule import Schedule
from edge_agent.collectors.plant.counting import RequestCounter
from edge_agent.collectors.plant.messages import (
    Connected,
    Failures,
    Message,
    Remarked,
    Value,
    Values,
    Write,
    Written,
    decode,
    drop_requests,
    note,
)
from edge_agent.collectors.sources.protocol import Asked, Produced
from shared.errors import NotReady

FLUSH_US = 100_000
"""Readings of one message are taken within this time."""
VERIFY_PAUSE_S = 0.05
SPLITTING = frozenset({2, 3, 4})
"""Exceptions with which devices refuse an address or a count that they do not have."""
NO_NUMBER = "its registers hold no number (NaN or infinite)"


def produce(given: dict[str, Any], requests: Queue[Asked]) -> Iterator[Produced]:
    """The readings of all tags, in the client process."""
    chosen = msgspec.convert(given["options"], Options)
    tags = msgspec.convert(given["tags"], list[ModbusTag])
    drop_requests(requests)
    yield None
    connection = ModbusConnection(chosen)
    try:
        yield from _Poller(chosen, tags, connection, requests).run()
    finally:
        connection.close()


class _Poller:
    """Reads through one connection, from its start to its loss."""

    def __init__(
        self, chosen: Options, tags: list[ModbusTag], connection: ModbusConnection, requests: Queue[Asked]
    ) -> None:
        self._chosen, self._connection, self._requests = chosen, connection, requests
        self._items = [tag.item(index, chosen.unit_id) for index, tag in enumerate(tags)]
        self._codecs = [Codec(tag.layout(chosen.word_order, chosen.byte_order)) for tag in tags]
        self._tags = tags
        limits = Limits(registers=chosen.max_registers, bits=chosen.max_bits, gap=chosen.max_gap)
        groups: dict[str, list[Item]] = {}
        for tag, item in zip(tags, self._items, strict=True):
            groups.setdefault(tag.group, []).append(item)
        self._plans = {name: PollPlan(items, limits) for name, items in groups.items()}
        periods = {name: chosen.all_groups[name].period_s for name in groups}
        self._schedule = Schedule(periods, time.monotonic())
        self._units = Units({item.unit_id for item in self._items})
        self._counter = RequestCounter()
        self._connected = False
        self._began_us = 0
        self._read: tuple[list[int], list[float | str]] = ([], [])

    def run(self) -> Iterator[Produced]:
        """Read until the connection is lost (NotReady)."""
        while True:
            for name in self._schedule.due(time.monotonic()):
                yield from self._poll(self._plans[name])
            self._counter.late = self._schedule.late
            if (statistics := self._counter.report(time.monotonic())) is not None:
                yield note(statistics)
            yield from self._writes(min(1.0, self._schedule.wait_s(time.monotonic())))

    # -- reading -------------------------------------------------------------------------------------

    def _poll(self, plan: PollPlan) -> Iterator[Produced]:
        todo = deque(plan.batches(time.monotonic()))
        while todo:
            batch = todo.popleft()
            if self._units.is_suspended(batch.unit_id, time.monotonic()):
                continue
            try:
                data = self._ask(batch)
            except RequestRefused as error:
                todo.extendleft(reversed(list(self._refused(plan, batch, error))))
                yield from map(note, self._refusals(plan, batch, error))
            except NoAnswer as error:
                yield from map(note, self._unanswered(batch.unit_id, error))
            else:
                plan.answered(batch)
                yield from map(note, self._answered(batch.unit_id))
                yield from map(note, self._decode(batch, data))
            yield from self._flush(FLUSH_US)
            yield from self._writes(self._chosen.pause_s)
        yield from self._flush(0)

    def _ask(self, batch: Batch) -> bytes | list[bool]:
        with self._counter.request():
            return self._connection.read(batch.unit_id, batch.table, batch.address, batch.count)

    def _refused(self, plan: PollPlan, batch: Batch, error: RequestRefused) -> list[Batch]:
        if error.code in SPLITTING:
            return plan.refused(batch, time.monotonic())
        if error.code == ILLEGAL_FUNCTION:
            return plan.refused(batch, time.monotonic(), whole=True)
        return []  # busy and the like: read again next time

    def _refusals(self, plan: PollPlan, batch: Batch, error: RequestRefused) -> Iterator[Message]:
        """What the refusal says of the unit and of single tags."""
        yield from self._answered(batch.unit_id)
        parked = set(plan.parked)
        if indexes := [item.index for item in batch.items if item.index in parked]:
            yield Failures(indexes=indexes, reason=str(error))

    def _answered(self, unit_id: int) -> Iterator[Message]:
        if not self._connected:
            self._connected = True
            yield Connected(text=self._chosen.address)
        if self._units.answered(unit_id):
            yield Remarked(text=f"unit {unit_id} answers again", warning=False)

    def _unanswered(self, unit_id: int, error: NoAnswer) -> Iterator[Message]:
        first = self._units.unanswered(unit_id, time.monotonic())
        if self._units.all_silent:
            raise NotReady(f"{self._chosen.address}: {error}")
        if first:
            yield Remarked(text=f"unit {unit_id} is asked less often: {error}")

    def _decode(self, batch: Batch, data: bytes | list[bool]) -> Iterator[Message]:
        indexes, values = self._read
        if not indexes:
            self._began_us = now_us()
        broken = []
        for item in batch.items:
            at = item.address - batch.address
            value = float(data[at]) if isinstance(data, list) else self._codecs[item.index].decode(data, 2 * at)
            if isinstance(value, float) and not math.isfinite(value):
                broken.append(item.index)
            else:
                indexes.append(item.index)
                values.append(value)
        if broken:
            yield Failures(indexes=broken, reason=NO_NUMBER)

    def _flush(self, age_us: int) -> Iterator[Produced]:
        """The readings, once the oldest is so old."""
        indexes, values = self._read
        if not indexes or 0 <= now_us() - self._began_us < age_us:
            yield None
            return
        self._read = ([], [])
        yield note(Values(t_us=self._began_us, indexes=indexes, values=values))

    # -- writing -------------------------------------------------------------------------------------

    def _writes(self, wait_s: float) -> Iterator[Produced]:
        """Carry out requests for `wait_s`, and one that waits already."""
        until = time.monotonic() + wait_s
        while True:
            left = until - time.monotonic()
            try:
                asked = self._requests.get(timeout=left) if left > 0 else self._requests.get_nowait()
            except Empty:
                yield None
                return
            message = decode(asked.data)
            if isinstance(message, Write):
                yield from map(note, self._write(message))

    def _write(self, message: Write) -> Iterator[Message]:
        item = self._items[message.index]
        try:
            if message.expired:
                raise NoAnswer(message.expired)
            self._set(item, self._tags[message.index], message.value)
            value = self._read_back(item, message)
        except (ValueError, NoAnswer) as error:
            yield Written(number=message.number, reason=str(error))
        except RequestRefused as error:
            yield Written(number=message.number, reason=f"the device refused it: {error}")
        else:
            yield Values(t_us=now_us(), indexes=[item.index], values=[value], force=True)
            same = self._codecs[item.index].matches(message.value, value)
            yield Written(number=message.number, reason="" if same else f"read back {value}, not {message.value}")

    def _set(self, item: Item, tag: ModbusTag, value: Value) -> None:
        if tag.value_type != "bool":
            registers = struct.unpack(f">{item.count}H", self._codecs[item.index].encode(value))
            with self._counter.request():
                self._connection.write_registers(item.unit_id, item.address, registers)
            return
        if value not in (0, 1):
            raise ValueError(f"{value!r} is no bool: use true or false")
        with self._counter.request():
            if tag.bit is not None:
                self._connection.write_bit(item.unit_id, item.address, tag.bit, bool(value))
            else:
                self._connection.write_coil(item.unit_id, item.address, bool(value))

    def _read_back(self, item: Item, message: Write) -> float | str:
        """The value after the write, or as it is when the time for it is over."""
        codec, until = self._codecs[item.index], time.monotonic() + self._chosen.verify_s
        while True:
            data = self._ask(Batch((item,)))
            value = float(data[0]) if isinstance(data, list) else codec.decode(data)
            if codec.matches(message.value, value) or time.monotonic() >= until:
                return value
            time.sleep(VERIFY_PAUSE_S)
