"""What every collector must keep, a third party's too: run yours through `examine_collector`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from edge_agent.collectors import Collector, Frame, Reading, Window
from edge_agent.config import CollectorTable
from shared.errors import ConfigError
from shared.protocol.codec import encode
from shared.protocol.messages import Event, Metric, Sample

NOW_US = 1_700_000_000_000_000


@dataclass(frozen=True, kw_only=True)
class Site:
    """A collector under test. `happens` lets the world do something worth a reading."""

    open_collector: Callable[[CollectorTable], Collector]
    table: CollectorTable
    happens: Callable[[], None] = lambda: None
    kinds: tuple[type[Reading], ...] = (Sample, Event, Frame, Window)
    turns: int = 3
    captured: bool = False
    """Frames carry the time of their capture, not that of the reading."""
    source_times: bool = False
    """So do samples, which a client in a process of its own has read."""
    undeclared: frozenset[str] = frozenset()
    """Metrics that the site may show without having been declared: a sensor that came later."""


def examine_collector(site: Site) -> None:
    """Declared metrics, times passed through, sound values, collecting and closing again, refused options."""
    collector = site.open_collector(site.table)
    assert collector.name == site.table.name
    assert collector.period_s is None or 0.01 <= collector.period_s <= 86400
    names = [metric.name for metric in collector.metrics]
    assert all(isinstance(metric, Metric) for metric in collector.metrics)
    assert len(set(names)) == len(names), "a metric is declared twice"
    readings = []
    for turn in range(site.turns):
        site.happens()
        now = NOW_US + turn * 1_000_000
        fresh = list(collector.collect(now))
        timed = [one for one in fresh if not _captured(one, site)]
        assert {reading.t_us for reading in timed} <= {now}, "the time is the reading's, not the collector's"
        readings += fresh
    assert readings, "nothing was read in all turns"
    taken = [reading.t_us for reading in readings if isinstance(reading, Frame)]
    assert all(t_us > 0 for t_us in taken)
    numbers = [reading.number for reading in readings if isinstance(reading, (Frame, Window))]
    assert numbers == sorted(set(numbers)), "frames are numbered, and no number comes twice"
    for reading in readings:
        assert isinstance(reading, site.kinds)
        _sound(reading, set(names) | site.undeclared, collector.name)
    collector.close()
    collector.close()
    _options(site)


def _captured(reading: Reading, site: Site) -> bool:
    """Whether its time is that of its source."""
    return (site.captured and isinstance(reading, Frame)) or (site.source_times and isinstance(reading, Sample))


def _sound(reading: Reading, names: set[str], name: str) -> None:
    if isinstance(reading, Sample):
        assert reading.metric in names, f"{reading.metric} was never declared"
        assert not isinstance(reading.value, float) or math.isfinite(reading.value)
        assert encode(reading)
    elif isinstance(reading, Event):
        assert reading.source == name
        assert reading.text
        assert encode(reading)
    else:
        assert reading.source == name, "models are fed by the collector's name"
        assert math.prod(reading.shape) * (4 if isinstance(reading, Window) else 1) == len(reading.data)


def _options(site: Site) -> None:
    """An option that is not there is the operator's business, told with its name."""
    table = site.table
    wrong = CollectorTable(
        kind=table.kind, name=table.name, period_s=table.period_s, options=table.options | {"no_such_option": 1}
    )
    with pytest.raises(ConfigError) as caught:
        site.open_collector(wrong)
    assert "no_such_option" in str(caught.value)
    assert table.name in caught.value.place
    assert caught.value.cure
