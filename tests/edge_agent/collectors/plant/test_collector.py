"""The collector around a client process, with a client that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from edge_agent.collectors import modbus
from edge_agent.collectors.plant.messages import KIND, Connected, Failures, Unchanged, Values, Written, note
from edge_agent.collectors.sources.process import Counts
from edge_agent.collectors.sources.protocol import Note, State
from edge_agent.config import CollectorTable
from shared.protocol.messages import Event, Sample

NOW = 1_700_000_000_000_000


class Script:
    """In place of the source process: what arrives next."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.asked: list[bytes] = []
        self.counts = Counts()

    def start(self) -> None: ...

    def take(self) -> list[Any]:
        found, self.items = self.items, []
        return found

    def ask(self, _kind: str, data: bytes) -> bool:
        self.asked.append(data)
        return True

    def close(self) -> None: ...


@pytest.fixture
def both() -> Iterator[tuple[Any, Script]]:
    tags = [{"name": name, "address": 40001 + n, "writable": True} for n, name in enumerate("abc")]
    table = CollectorTable(
        kind="modbus", name="plc", period_s=None, options={"address": "plc:502", "tags": tags, "write_timeout_s": 1.0}
    )
    collector, script = modbus.open_collector(table), Script()
    collector.source = script  # type: ignore[assignment]
    list(collector.collect(NOW))
    yield collector, script
    collector.close()


def read(collector: Any, now: int = NOW) -> list[Any]:
    return list(collector.collect(now))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", msgspec.msgpack.encode(["Values", 1]), msgspec.msgpack.encode({"type": "Values"}),
        note(Values(t_us=NOW, indexes=[99], values=[1.0])).data, note(Failures(indexes=[-99], reason="x")).data,
        note(Values(t_us=NOW, indexes=[0, 1], values=[1.0])).data,
        note(Values(t_us=-5, indexes=[0], values=[1.0])).data,
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_used_is_told_and_the_next_one_is_read(both: tuple[Any, Script], data: bytes) -> None:
    collector, script = both
    script.items = [Note(kind=KIND, data=data), note(Values(t_us=NOW, indexes=[2], values=[7.0]))]
    found = read(collector)
    assert ("plc/c", 7.0) in [(one.metric, one.value) for one in found if isinstance(one, Sample)]
    assert [one.level for one in found if isinstance(one, Event)] == ["error"]


def test_foreign_text_is_passed_on_as_the_hub_can_store_it(both: tuple[Any, Script]) -> None:
    collector, script = both
    script.items = [
        note(Values(t_us=NOW, indexes=[0, 1], values=["run\0\0\0", "a\0b"])),
        note(Failures(indexes=[2], reason="'\0\x1b[2J' is no number")),
    ]
    found = read(collector)
    assert [one.value for one in found if isinstance(one, Sample)][:2] == ["run", "a\ufffdb"]
    assert [one.text for one in found if isinstance(one, Event)] == [
        "no value of plc/c: '\ufffd\ufffd[2J' is no number"
    ]


def test_a_source_with_ever_new_errors_makes_a_bounded_number_of_events(both: tuple[Any, Script]) -> None:
    collector, script = both
    script.items = [note(Failures(indexes=[0], reason=f"'{number}' is no number")) for number in range(1000)]
    events = [one for one in read(collector) if isinstance(one, Event)]
    assert len(events) == 101
    assert "further events are left out" in events[-1].text
    script.items = [note(Failures(indexes=[0], reason="something else"))]
    assert any("something else" in str(one) for one in read(collector, NOW + 3_600_000_000))


def test_an_unknown_group_and_an_unknown_write_change_nothing(both: tuple[Any, Script]) -> None:
    collector, script = both
    script.items = [note(Unchanged(group="none")), note(Written(number=77, reason=""))]
    assert read(collector) == []


def test_many_bad_tags_are_one_event(both: tuple[Any, Script]) -> None:
    collector, script = both
    script.items = [note(Failures(indexes=[0, 1, 2], reason="gone"))] * 3
    events = [one.text for one in read(collector) if isinstance(one, Event)]
    assert events == ["no value of plc/a, plc/b, plc/c: gone"]


def test_each_write_is_answered_exactly_once(both: tuple[Any, Script]) -> None:
    collector, script = both
    answers: list[tuple[str, str]] = []

    def write(name: str) -> None:
        collector.write(f"plc/{name}", 1.0, lambda reason: answers.append((name, reason)))

    write("a")
    assert answers == [("a", "the source is not connected: nothing was written")]
    script.items = [note(Connected(text="plc"))]
    read(collector)
    answers.clear()
    for name in "abc":
        write(name)
    assert len(script.asked) == 3
    script.items = [note(Written(number=2, reason="")), note(Written(number=2, reason="again"))]
    read(collector)
    assert answers == [("a", "")]
    script.items = [State(state="lost", text="gone")]
    read(collector)
    assert [name for name, reason in answers[1:] if "is not known" in reason] == ["b", "c"]
    script.items = [note(Written(number=3, reason=""))]
    read(collector, NOW + 10_000_000)
    collector.close()
    assert len(answers) == 3


def test_a_write_that_is_not_answered_ends_at_its_time_limit_also_when_the_clock_is_set_back(
    both: tuple[Any, Script],
) -> None:
    collector, script = both
    answers: list[str] = []
    script.items = [note(Connected(text="plc"))]
    read(collector)
    collector.write("plc/a", 1.0, answers.append)
    for second in (0.0, 0.9, -3600.0, -3599.1):
        read(collector, NOW + int(second * 1e6))
        assert answers == []
    read(collector, NOW + int(-3598.9 * 1e6))
    assert answers == ["no answer within 1 s: whether it was written is not known"]
