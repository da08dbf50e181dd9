"""Drives a plant collector as the agent does, and remembers what it said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from simulators.brokers import until

from edge_agent.clock import now_us
from edge_agent.collectors import Reading, Writer
from edge_agent.config import CollectorTable
from shared.protocol.messages import Event, Sample


class Watched:
    """A collector with all that it has read so far."""

    def __init__(self, collector: Any) -> None:
        self.collector = collector
        self.readings: list[Reading] = []
        self._name = collector.name

    def read(self) -> None:
        self.readings += self.collector.collect(now_us())

    def samples(self, tag: str) -> list[Sample]:
        self.read()
        return [one for one in self.readings if isinstance(one, Sample) and one.metric == f"{self._name}/{tag}"]

    def last(self, tag: str) -> tuple[Any, str] | None:
        """Value and quality of the newest sample."""
        found = self.samples(tag)
        return (found[-1].value, found[-1].quality) if found else None

    def shows(self, tag: str, value: Any, quality: str = "good") -> None:
        until(f"{tag} is {value}, {quality}", lambda: self.last(tag) == (value, quality))

    @property
    def texts(self) -> str:
        self.read()
        return "\n".join(one.text for one in self.readings if isinstance(one, Event))

    def says(self, text: str) -> None:
        until(text, lambda: text in self.texts)

    def forget(self) -> None:
        """Look only at what comes from now on."""
        self.read()
        self.readings.clear()

    def write(self, tag: str, value: Any) -> str:
        """Write, and wait for the outcome."""
        assert isinstance(self.collector, Writer)
        answers: list[str] = []
        self.collector.write(f"{self._name}/{tag}", value, answers.append)
        until("an answer", lambda: self.read() or answers)
        assert len(answers) == 1
        return answers[0]


@contextmanager
def watched(open_collector: Callable[[CollectorTable], Any], kind: str, **options: Any) -> Iterator[Watched]:
    """A collector named `plc` that is closed at the end."""
    table = CollectorTable(kind=kind, name="plc", period_s=0.02, options=options)
    collector = open_collector(table)
    try:
        yield Watched(collector)
    finally:
        collector.close()


def tag_rows(*rows: Sequence[Any], keys: str) -> list[dict[str, Any]]:
    """Tables of tags; the keys are separated by spaces, None leaves a key out."""
    return [{key: value for key, value in zip(keys.split(), row, strict=False) if value is not None} for row in rows]
