"""Reads each collector at its period; passes frames and windows to models, all other readings to the pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_agent import clock
from edge_agent.collectors import Ask, Collector, Frame, Inquirer, ModelInput, Observer, Resumable, Window, Writer
from edge_agent.config import CollectorTable
from edge_agent.runtime.event_loop import EventLoop, Timer
from shared import plugins
from shared.errors import ConfigError, NotReady
from shared.protocol.messages import Metric, Sample

log = logging.getLogger(__name__)


def open_collector(table: CollectorTable) -> Collector:
    """Open the collector of a `[[collectors]]` table; raises ConfigError for any error of the plug-in."""
    place = f"collector '{table.name}'"
    opened = plugins.load(plugins.COLLECTORS, table.kind, place)
    try:
        collector: Collector = opened(table)
    except ConfigError:
        raise
    except Exception as error:
        cure = f"Correct its options, or take it out; it is of kind '{table.kind}'"
        raise ConfigError(place, f"cannot be opened ({type(error).__name__}: {error})", cure) from error
    return collector


class Sampler:
    """`add` gets the readings and the checkpoint after them; `feeds` maps the name of a collector to the consumers of
    its frames; `checkpoint` returns the stored checkpoint of a collector.
    """

    def __init__(
        self,
        loop: EventLoop,
        tables: Sequence[CollectorTable],
        add: Callable[[list[Any], Mapping[str, bytes]], None],
        feeds: Mapping[str, Sequence[Callable[[ModelInput], None]]],
        checkpoint: Callable[[str], bytes | None],
    ) -> None:
        self._loop, self._add, self._feeds = loop, add, feeds
        self._collectors = [open_collector(table) for table in tables]
        self._timers: list[tuple[Collector, Timer]] = []
        self._stored: dict[str, bytes] = {}
        self._observers: dict[str, list[Observer]] = {}
        for observer in self._collectors:
            if isinstance(observer, Observer):
                for metric in observer.observed:
                    self._observers.setdefault(metric, []).append(observer)
        for collector in self._collectors:
            if isinstance(collector, Resumable) and (value := checkpoint(collector.name)) is not None:
                collector.resume(value)

    @property
    def metrics(self) -> list[Metric]:
        """Metadata of the metrics of all collectors."""
        return [metric for collector in self._collectors for metric in collector.metrics]

    @property
    def sources(self) -> dict[str, str]:
        """Names of the collectors by the metrics that they declare."""
        return {metric.name: collector.name for collector in self._collectors for metric in collector.metrics}

    @property
    def writers(self) -> dict[str, Writer]:
        """Collectors that can set metrics, by metric."""
        writers = [collector for collector in self._collectors if isinstance(collector, Writer)]
        return {metric: writer for writer in writers for metric in writer.writable}

    def use_questions(self, ask: Ask) -> None:
        """Let collectors ask the hub's language models."""
        for collector in self._collectors:
            if isinstance(collector, Inquirer):
                collector.use_questions(ask)

    def start(self, period_s: float) -> None:
        """Read all collectors now, then each at its period; `period_s` is the default period."""
        for collector in self._collectors:
            timer = self._loop.every(collector.period_s or period_s, self._reading(collector))
            self._timers.append((collector, timer))
            self._loop.post(self._reading(collector))

    def follow(self, period_s: float) -> None:
        """Change the default period."""
        for collector, timer in self._timers:
            timer.period_s = collector.period_s or period_s

    def close(self) -> None:
        """Close all collectors."""
        for collector in self._collectors:
            collector.close()

    def _reading(self, collector: Collector) -> Callable[[], None]:
        return lambda: self._collect(collector)

    def _collect(self, collector: Collector) -> None:
        found: list[Any] = []
        try:
            for reading in collector.collect(clock.now_us()):
                if isinstance(reading, (Frame, Window)):
                    for model in self._feeds.get(reading.source, ()):
                        model(reading)
                else:
                    found.append(reading)
                    self._notify(reading)
        except NotReady as error:
            log.warning("collector.not_ready", extra={"fields": {"collector": collector.name, "reason": error.reason}})
        except ValueError as error:  # an invalid reading: a bug of the collector
            log.error("collector.refused", extra={"fields": {"collector": collector.name, "reason": str(error)}})
        finally:
            if found or isinstance(collector, Resumable):
                self._add(found, self._checkpoint(collector))

    def _notify(self, reading: Any) -> None:
        if isinstance(reading, Sample):
            for observer in self._observers.get(reading.metric, ()):
                observer.observe(reading)

    def _checkpoint(self, collector: Collector) -> dict[str, bytes]:
        """The checkpoint of the collector if it has changed."""
        if not isinstance(collector, Resumable):
            return {}
        value = collector.checkpoint()
        if self._stored.get(collector.name) == value:
            return {}
        self._stored[collector.name] = value
        return {collector.name: value}
