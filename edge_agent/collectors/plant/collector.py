"""The collector around a client process of a plant protocol: samples with quality, events, its own metrics, writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from edge_agent.clock import monotonic_s
from edge_agent.collectors import Reading, Value
from edge_agent.collectors.plant import messages
from edge_agent.collectors.plant.core.quality import Aging, TagQualities, TagSample
from edge_agent.collectors.plant.options import Group, PlantOptions
from edge_agent.collectors.plant.tags import Tag
from edge_agent.collectors.plant.writes import PendingWrites
from edge_agent.collectors.sources.collector import BackgroundCollector
from edge_agent.collectors.sources.process import Arrived, BackgroundSource
from edge_agent.collectors.sources.protocol import Note, State
from edge_agent.config import CollectorTable
from shared.errors import ConfigError
from shared.ids import first_duplicate, metric_name
from shared.protocol.messages import Metric, Sample

TICK_US = 1_000_000
STALL_S = 30.0
NAMED = 5
"""Tags that an event names; further ones are counted."""
MIN_STALE_S = 5.0


def own_metrics(name: str) -> list[Metric]:
    """Metadata of the metrics of a plant collector about itself."""
    return [
        Metric(name=f"{name}/up", unit="1", low=0, high=1, description="1: the source answers"),
        Metric(name=f"{name}/round-trip", unit="s", low=0, description="mean time of the last requests"),
        Metric(name=f"{name}/requests", kind="counter", description="requests to the source"),
        Metric(name=f"{name}/errors", kind="counter", description="requests that failed"),
        Metric(name=f"{name}/late", kind="counter", description="readings left out because the source was too slow"),
        Metric(name=f"{name}/bad", unit="1", low=0, description="tags without a value"),
        Metric(name=f"{name}/dropped", kind="counter", description="messages of the client process lost in the agent"),
        Metric(name=f"{name}/restarts", kind="counter", description="starts of the client process after the first"),
    ]


class PlantCollector(BackgroundCollector):
    """Reads the tags of one source. `producer` is the client, as `module:function`; it gets `task` as its options."""

    def __init__(
        self, table: CollectorTable, chosen: PlantOptions, tags: Sequence[Tag], groups: Mapping[str, Group],
        producer: str, task: dict[str, Any],
    ) -> None:  # fmt: skip
        source = BackgroundSource(producer, lambda: task, stall_s=STALL_S, interactive=True)
        fastest = min(groups[tag.group].period_s for tag in tags)
        super().__init__(table, source, table.period_s or min(1.0, max(0.05, fastest / 2)))
        prefix = table.name if chosen.prefix is None else chosen.prefix
        self.tags = list(tags)
        self.names = _metric_names(tags, prefix, f"collector '{table.name}'")
        self.tag_names = frozenset(self.names)
        self.metrics = [*own_metrics(table.name), *map(_metric, self.names, tags)]
        if (twice := first_duplicate([metric.name for metric in self.metrics])) is not None:
            reason = f"the metric '{twice}' is one of the collector itself"
            raise ConfigError(f"collector '{table.name}'.tags", reason, "Rename the tag, or set `prefix`")
        self.writable = [name for name, tag in zip(self.names, tags, strict=True) if tag.writable]
        self._index = {name: index for index, name in enumerate(self.names) if tags[index].writable}
        self._members = _members(tags)
        self._agings = [_aging(tag, chosen, groups) for tag in tags]
        self._qualities: TagQualities | None = None
        self._ticked_us = 0
        self._writes = PendingWrites(chosen.write_timeout_s)
        self._statistics = messages.Statistics(requests=0, errors=0, late=0, round_trip_s=0.0)
        self.failures: dict[int, str] = {}
        """Why tags have no value, by index."""

    # -- reading ---------------------------------------------------------------------------------------

    def collect(self, now_us: int) -> Iterator[Reading]:
        """Yield what has arrived, and what has aged; never blocks."""
        if self._qualities is None:
            self._qualities = TagQualities(self._agings, now_us)
        yield from super().collect(now_us)
        if not 0 <= now_us - self._ticked_us < TICK_US:
            self._ticked_us = now_us
            yield from map(self._sample, self._qualities.tick(now_us))
        self._writes.expire(now_us)

    def _arrived(self, item: Arrived, now_us: int) -> Iterator[Reading]:
        if isinstance(item, Note):
            try:
                message = messages.decode(item.data)
                yield from self._message(message, now_us)
            except (msgspec.MsgspecError, IndexError, ValueError) as error:  # a bug of the client
                yield from self._event(f"a message cannot be used: {error}"[:300], "error", now_us)
        elif isinstance(item, State):
            yield from self._state(item, now_us)

    def _state(self, state: State, now_us: int) -> Iterator[Reading]:
        """A lost connection. `up` says only that the client runs; `Connected` follows when the source answers."""
        if state.state != "up":
            self._up = False
            self._writes.fail_all("the connection was lost: whether it was written is not known")
            yield from self._event(f"connection lost: {state.text}", "warning", now_us)

    def _message(self, message: messages.Message, now_us: int) -> Iterator[Reading]:
        if isinstance(message, messages.Values):
            yield from map(self._sample, self._values(message, now_us))
        elif isinstance(message, messages.Connected):
            self._up = True
            yield from self._event(f"connected to {message.text}", "info", now_us)
        elif isinstance(message, messages.Failures):
            yield from self._failures(message, now_us)
        elif isinstance(message, messages.Unchanged) and self._qualities is not None:
            self._qualities.confirm(self._members.get(message.group, ()), now_us)
        elif isinstance(message, messages.Statistics):
            self._statistics = message
        elif isinstance(message, messages.Remarked):
            yield from self._event(message.text, "warning" if message.warning else "info", now_us)
        elif isinstance(message, messages.Written):
            self._writes.done(message.number, message.reason)

    def _values(self, message: messages.Values, now_us: int) -> Iterator[TagSample]:
        if self._qualities is None:
            return
        read, quality, force = self._qualities.read, message.quality, message.force
        times = message.times_us or [message.t_us] * len(message.indexes)
        for index, value, t_us in zip(message.indexes, message.values, times, strict=True):
            if self.failures:
                self.failures.pop(index, None)
            sample = read(index, value, t_us, now_us, quality=quality, force=force)
            if sample is not None:
                yield sample

    def _failures(self, message: messages.Failures, now_us: int) -> Iterator[Reading]:
        if self._qualities is None:
            return
        fresh = [index for index in message.indexes if self.failures.get(index) != message.reason]
        for index in message.indexes:
            self.failures[index] = message.reason
            sample = self._qualities.failed(index, now_us)
            if sample is not None:
                yield self._sample(sample)
        if fresh:
            names = ", ".join(self.names[index] for index in fresh[:NAMED])
            more = f" and {len(fresh) - NAMED} more" if len(fresh) > NAMED else ""
            yield from self._event(f"no value of {names}{more}: {message.reason}", "warning", now_us)

    def _sample(self, sample: TagSample) -> Sample:
        value = sample.value
        if isinstance(value, str) and "\0" in value:  # padding, or something that the hub's database refuses
            value = value.rstrip("\0").replace("\0", "\ufffd")
        return Sample(metric=self.names[sample.index], t_us=sample.t_us, value=value, quality=sample.quality)

    def _samples(self, now_us: int) -> Iterator[Sample]:
        """Metrics of the collector itself, every METRICS_PERIOD_US."""
        self._sent_us = now_us
        counted, counts = self._statistics, self.source.counts
        bad = self._qualities.count("bad") if self._qualities is not None else 0
        values = {
            "up": self._up, "round-trip": counted.round_trip_s, "requests": counted.requests,
            "errors": counted.errors, "late": counted.late, "bad": bad, "dropped": counts.dropped,
            "restarts": counts.restarts,
        }  # fmt: skip
        for name, value in values.items():
            yield Sample(metric=f"{self.name}/{name}", t_us=now_us, value=float(value))

    # -- writing ---------------------------------------------------------------------------------------

    def write(self, metric: str, value: Value, on_done: Callable[[str], None]) -> None:
        """Start to set a tag that is `writable`; the client reads it back and compares. See `Writer`."""
        index = self._index.get(metric)
        if index is None:
            on_done(f"'{metric}' is not writable: its tag does not say `writable = true`")
            return
        number = self._writes.add(on_done)
        if number is None:
            on_done("too many writes are waiting for an answer")
            return
        until_s = monotonic_s() + self._writes.timeout_s
        request = messages.Write(number=number, index=index, value=value, until_s=until_s)
        if not self._up or not self.source.ask(messages.KIND, messages.encode(request)):
            self._writes.done(number, "the source is not connected: nothing was written")

    def close(self) -> None:
        """End the client process."""
        super().close()
        self._writes.fail_all("the agent was stopped: whether it was written is not known")


def _metric_names(tags: Sequence[Tag], prefix: str, place: str) -> list[str]:
    try:
        return [metric_name(f"{prefix}/{tag.name}" if prefix else tag.name) for tag in tags]
    except ValueError as error:
        cure = "The name of the collector begins the names of its metrics; set `prefix` to use another"
        raise ConfigError(f"{place}.tags", str(error), cure) from error


def _metric(name: str, tag: Tag) -> Metric:
    return Metric(
        name=name, unit=tag.unit, kind=tag.metric_kind, low=tag.low, high=tag.high, description=tag.description
    )  # fmt: skip


def _members(tags: Sequence[Tag]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, tag in enumerate(tags):
        found.setdefault(tag.group, []).append(index)
    return found


def _aging(tag: Tag, chosen: PlantOptions, groups: Mapping[str, Group]) -> Aging:
    stale_s = chosen.stale_s or max(MIN_STALE_S, 3 * groups[tag.group].period_s)
    return Aging(
        stale_us=int(stale_s * 1e6), bad_us=int(max(chosen.bad_s, stale_s) * 1e6),
        resend_us=int(chosen.resend_s * 1e6), deadband=tag.deadband,
    )  # fmt: skip
