"""The client process of an `opcua` collector: subscribed and polled groups, and writes, in one event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from queue import Empty, Queue
from typing import Any

import msgspec
from asyncua import ua

from edge_agent.clock import now_us
from edge_agent.collectors.opcua import Options
from edge_agent.collectors.opcua.connection import Answer, OpcuaConnection, TooMany
from edge_agent.collectors.opcua.core.values import same, to_sample, to_write
from edge_agent.collectors.opcua.tags import OpcuaTag
from edge_agent.collectors.plant.core.schedule import Schedule
from edge_agent.collectors.plant.core.times import sample_time
from edge_agent.collectors.plant.counting import RequestCounter
from edge_agent.collectors.plant.messages import (
    Connected,
    Failures,
    Message,
    Unchanged,
    Values,
    Write,
    Written,
    decode,
    drop_requests,
    note,
)
from edge_agent.collectors.sources.protocol import Asked, Produced
from shared.protocol.messages import Quality

WRITE_POLL_S = 0.1
GATHER_S = 0.02
"""Changes that arrive within this time travel together."""
REPEAT_FAILURES_S = 60.0
VERIFY_PAUSE_S = 0.05


def produce(given: dict[str, Any], requests: Queue[Asked]) -> Iterator[Produced]:
    """The readings of all tags, in the client process."""
    chosen = msgspec.convert(given["options"], Options)
    tags = msgspec.convert(given["tags"], list[OpcuaTag])
    drop_requests(requests)
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        connection = OpcuaConnection(chosen, given["name"])
        readings = _Reader(chosen, tags, connection, requests).run()
        try:
            while True:
                yield loop.run_until_complete(readings.__anext__())
        finally:
            loop.run_until_complete(connection.close())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class _Reader:
    """Reads through one session, from its start to its loss."""

    def __init__(
        self, chosen: Options, tags: list[OpcuaTag], connection: OpcuaConnection, requests: Queue[Asked]
    ) -> None:
        self._chosen, self._tags, self._connection, self._requests = chosen, tags, connection, requests
        self._node_ids: list[ua.NodeId | str] = []
        self._indexes: dict[ua.NodeId, list[int]] = {}
        self._groups = {tag.group: chosen.all_groups[tag.group] for tag in tags}
        self._counter = RequestCounter()
        self._most = chosen.max_nodes
        self._failed: dict[int, str] = {}
        self._failed_s = time.monotonic()
        self._idle_s = WRITE_POLL_S if any(tag.writable for tag in tags) else 1.0

    async def run(self) -> AsyncIterator[Produced]:
        """Read until the session is lost (NotReady)."""
        yield None
        await self._connection.open()
        yield note(Connected(text=self._chosen.url))
        self._node_ids = await self._connection.node_ids(tag.node for tag in self._tags)
        for message in self._resolve():
            yield note(message)
        async for failure in self._subscribe():
            yield note(failure) if failure is not None else None
        schedule = Schedule({name: group.period_s for name, group in self._groups.items()}, time.monotonic())
        while True:
            self._connection.check()
            for name in schedule.due(time.monotonic()):
                async for message in self._due(name):
                    yield note(message)
            for message in [*self._changed(), *await self._writes(), *self._reports(schedule)]:
                yield note(message)
            yield None
            await self._wait(min(self._idle_s, schedule.wait_s(time.monotonic())))

    def _resolve(self) -> Iterator[Message]:
        """Which tags a node has; several may be elements of one array."""
        for index, node in enumerate(self._node_ids):
            if isinstance(node, str):
                yield Failures(indexes=[index], reason=node)
            else:
                self._indexes.setdefault(node, []).append(index)

    def _reports(self, schedule: Schedule) -> Iterator[Message]:
        now_s = time.monotonic()
        self._counter.late = schedule.late
        if now_s - self._failed_s > REPEAT_FAILURES_S:  # in case the agent has lost a report
            self._failed, self._failed_s = {}, now_s
        if (statistics := self._counter.report(now_s)) is not None:
            yield statistics

    async def _wait(self, wait_s: float) -> None:
        try:
            await asyncio.wait_for(self._connection.changes.arrived.wait(), wait_s)
            await asyncio.sleep(GATHER_S)
        except asyncio.TimeoutError:
            pass

    # -- reading -------------------------------------------------------------------------------------

    def _nodes(self, group: str) -> list[ua.NodeId]:
        found = {
            node: None
            for node, tag in zip(self._node_ids, self._tags, strict=True)
            if tag.group == group and not isinstance(node, str)
        }
        return list(found)

    async def _subscribe(self) -> AsyncIterator[Message | None]:
        for name, group in self._groups.items():
            if group.mode != "subscribe":
                continue
            rest = self._nodes(name)
            while rest:
                some = rest[: self._most]
                try:
                    with self._counter.request():
                        refused = await self._connection.subscribe(name, group.period_s, some)
                except TooMany:
                    self._fewer()
                    continue
                rest = rest[len(some) :]
                for node, status in refused.items():
                    yield Failures(indexes=self._indexes[node], reason=f"cannot be subscribed: {status}")
                yield None

    async def _due(self, name: str) -> AsyncIterator[Message]:
        if self._groups[name].mode == "poll":
            async for message in self._poll(name):
                yield message
        elif self._connection.is_alive(name):
            yield Unchanged(group=name)

    async def _poll(self, name: str) -> AsyncIterator[Message]:
        rest = self._nodes(name)
        while rest:
            some = rest[: self._most]
            try:
                with self._counter.request():
                    answers = await self._connection.read(some)
            except TooMany:
                self._fewer()
                continue
            rest = rest[len(some) :]
            for message in self._messages(zip(some, answers, strict=True), name):
                yield message

    def _fewer(self) -> None:
        self._most = max(1, self._most // 2)

    def _changed(self) -> list[Message]:
        return self._messages(self._connection.changes.drain().items())

    def _messages(
        self, answers: Iterable[tuple[ua.NodeId, Answer]], group: str = "", *, force: bool = False
    ) -> list[Message]:
        """Readings by quality, and new failures by reason."""
        now, times = now_us(), self._chosen.timestamps == "source"
        good: dict[Quality, Values] = {}
        failures: dict[str, list[int]] = {}
        for node, answer in answers:
            for index in self._indexes.get(node, ()):
                if group and self._tags[index].group != group:
                    continue
                value = self._value(index, answer, failures)
                if value is None:
                    continue
                quality: Quality = "uncertain" if answer.severity else "good"
                into = good.setdefault(quality, Values(t_us=now, indexes=[], values=[], quality=quality, force=force))
                into.indexes.append(index)
                into.values.append(value)
                if times:
                    into.times_us.append(sample_time(answer.source_us, now))
        return [*good.values(), *(Failures(indexes=found, reason=why) for why, found in failures.items())]

    def _value(self, index: int, answer: Answer, failures: dict[str, list[int]]) -> float | str | None:
        """The value of a tag; or None, and its failure added unless it is known."""
        tag, why = self._tags[index], ""
        if answer.severity < 2:
            try:
                value = to_sample(answer.value, tag.type, tag.index, tag.scale, tag.offset)
            except ValueError as error:
                why = str(error)
            else:
                if isinstance(value, str) or math.isfinite(value):
                    self._failed.pop(index, None)
                    return value
                why = "its value is no number (NaN or infinite)"
        why = why or answer.status or "bad"
        if self._failed.get(index) != why:
            self._failed[index] = why
            failures.setdefault(why, []).append(index)
        return None

    # -- writing -------------------------------------------------------------------------------------

    async def _writes(self) -> list[Message]:
        found: list[Message] = []
        while True:
            try:
                message = decode(self._requests.get_nowait().data)
            except Empty:
                return found
            if isinstance(message, Write):
                found += await self._write(message)

    async def _write(self, message: Write) -> Sequence[Message]:
        node = self._node_ids[message.index]
        if isinstance(node, str) or message.expired:
            return [Written(number=message.number, reason=message.expired or str(node))]
        tag = self._tags[message.index]
        with self._counter.request():
            (now,) = await self._connection.read([node])
        try:
            value = to_write(message.value, now.variant, tag.type, tag.scale, tag.offset)
        except ValueError as error:
            return [Written(number=message.number, reason=str(error))]
        with self._counter.request():
            refused = await self._connection.write(node, value, now.variant)
        if refused:
            return [Written(number=message.number, reason=f"the server refused it: {refused}")]
        read = await self._read_back(node, value)
        reason = "" if same(value, read.value) else f"read back {read.value}, not {value}"
        readings = self._messages([(node, read)], force=True)
        return [*readings, Written(number=message.number, reason=read.status or reason)]

    async def _read_back(self, node: ua.NodeId, value: object) -> Answer:
        """What the variable holds after the write, or when the time for it is over."""
        until = time.monotonic() + self._chosen.verify_s
        while True:
            with self._counter.request():
                (read,) = await self._connection.read([node])
            if same(value, read.value) or time.monotonic() >= until:
                return read
            await asyncio.sleep(VERIFY_PAUSE_S)
