"""One read of all tags of a plant collector, so that a person can check a tag list before the agent runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent import clock
from edge_agent.collectors.plant.collector import PlantCollector
from shared.protocol.messages import Event, Quality, Sample

PAUSE_S = 0.05
NOT_READ = "not read in time"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagReading:
    """What one tag said; `error` is '' if it has a value."""

    name: str
    value: float | str | None
    unit: str
    quality: Quality
    error: str


def read_all(collector: PlantCollector, wait_s: float) -> list[TagReading]:
    """Read until each tag has a value or an error, for at most `wait_s`. Starts the collector; the caller closes it."""
    found: dict[str, Sample] = {}
    trouble = ""
    until = clock.monotonic_s() + wait_s
    while clock.monotonic_s() < until and len(found) < len(collector.tags):
        for reading in collector.collect(clock.now_us()):
            if isinstance(reading, Sample) and reading.metric in collector.tag_names:
                found[reading.metric] = reading
            elif isinstance(reading, Event) and reading.level != "info" and not found:
                trouble = reading.text.removeprefix("connection lost: ")  # mostly there never was one
        time.sleep(PAUSE_S)
    return list(_readings(collector, found, trouble or NOT_READ))


def _readings(collector: PlantCollector, found: dict[str, Sample], missing: str) -> Iterator[TagReading]:
    for index, (name, tag) in enumerate(zip(collector.names, collector.tags, strict=True)):
        sample = found.get(name)
        error = collector.failures.get(index, "") if sample is not None else missing
        yield TagReading(
            name=name, value=sample.value if sample is not None else None, unit=tag.unit,
            quality=sample.quality if sample is not None else "bad", error=error,
        )  # fmt: skip
