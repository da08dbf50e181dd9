"""Metrics of Sparkplug nodes, followed by the rules of a host that does not announce itself (`HostSession`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edge_agent.collectors.mqtt_tap.core.values import to_sample
from edge_agent.collectors.mqtt_tap.readings import Readings
from edge_agent.collectors.mqtt_tap.tags import TapTag
from edge_agent.collectors.plant.core.times import sample_time
from shared.errors import WireError
from shared.protocol.messages import Quality
from shared.sparkplug.effects import Data, DeviceBorn, DeviceDied, HostEffect, NodeBorn, NodeDied, Publish
from shared.sparkplug.host_session import HostOptions, HostSession
from shared.sparkplug.payload import BAD, GOOD, QUALITY, Invalid, Metric
from shared.sparkplug.topics import NodeId, Topic, parse

Key = tuple[NodeId, str, str]


class SparkplugReader:
    """Reads the tags of Sparkplug nodes; messages of other nodes are left out unread."""

    def __init__(
        self, tags: Sequence[TapTag], readings: Readings, *, source_times: bool, request_births: bool
    ) -> None:  # fmt: skip
        self._tags, self._readings = tags, readings
        self._source_times, self._request_births = source_times, request_births
        self._indexes: dict[Key, list[int]] = {}
        for index, tag in enumerate(tags):
            if (key := tag.sparkplug) is not None:
                self._indexes.setdefault(key, []).append(index)
        self._nodes = {node for node, _device, _metric in self._indexes}
        groups = tuple(sorted({node.group for node in self._nodes}))
        self._session = HostSession(HostOptions(groups=groups), self._nodes) if self._nodes else None

    @property
    def filters(self) -> list[str]:
        """Topic filters of the groups."""
        return list(self._session.filters) if self._session is not None else []

    def subscribed(self, now_us: int) -> Iterator[Publish]:
        """The filters are subscribed."""
        if self._session is not None:
            yield from self._act(self._session.subscribed(now_us // 1000), now_us)

    def received(self, topic: str, payload: bytes, now_us: int, *, retained: bool) -> Iterator[Publish]:
        """A message came; yields what is to be published."""
        if self._session is None or not self._is_wanted(topic):
            return
        found = self._session.received(topic, payload, now_us // 1000, retained=retained)
        yield from self._act(found, now_us)

    def tick(self, now_us: int) -> Iterator[Publish]:
        """Time has passed."""
        if self._session is not None:
            yield from self._act(self._session.tick(now_us // 1000), now_us)

    def _is_wanted(self, topic: str) -> bool:
        try:
            parsed = parse(topic)
        except WireError:
            return False
        return isinstance(parsed, Topic) and parsed.node_id in self._nodes

    def _act(self, effects: Sequence[HostEffect], now_us: int) -> Iterator[Publish]:
        for effect in effects:
            if isinstance(effect, Publish):
                if self._request_births:
                    yield effect
            elif isinstance(effect, NodeBorn):
                self._born(effect.node, "", effect.metrics, now_us)
            elif isinstance(effect, DeviceBorn):
                self._born(effect.node, effect.device, effect.metrics, now_us)
            elif isinstance(effect, Data):
                self._metrics(effect.node, effect.device, effect.metrics, now_us)
            elif isinstance(effect, NodeDied):
                self._died(effect.node, None)
            elif isinstance(effect, DeviceDied):
                self._died(effect.node, effect.device)

    def _born(self, node: NodeId, device: str, metrics: Sequence[Metric], now_us: int) -> None:
        """The births define the metrics; a tag that is not among them has no value."""
        names = {metric.name for metric in metrics}
        for (of_node, of_device, name), indexes in self._indexes.items():
            if (of_node, of_device) == (node, device) and name not in names:
                for index in indexes:
                    self._readings.fail(index, f"the birth of {self._tags[index].node} has no such metric")
        self._metrics(node, device, metrics, now_us)

    def _metrics(self, node: NodeId, device: str, metrics: Sequence[Metric], now_us: int) -> None:
        for metric in metrics:
            if metric.is_historical:
                continue  # what was stored during an outage is not the current value
            for index in self._indexes.get((node, device, metric.name or ""), ()):
                self._metric(index, metric, now_us)

    def _metric(self, index: int, metric: Metric, now_us: int) -> None:
        tag, quality = self._tags[index], _quality(metric)
        if quality == "bad" or metric.value is None:
            self._readings.fail(
                index, "the node says that it is null" if metric.value is None else "its quality is bad"
            )
            return
        if isinstance(metric.value, Invalid):
            self._readings.fail(index, metric.value.reason[:200])
            return
        value: object = float(metric.value) if isinstance(metric.value, bool) and tag.type == "number" else metric.value
        source_us = metric.timestamp * 1000 if metric.timestamp is not None and self._source_times else None
        try:
            found = to_sample(value, tag.type, tag.scale, tag.offset)
        except ValueError as error:
            self._readings.fail(index, f"{tag.metric} {error}"[:200])
            return
        self._readings.add(index, found, sample_time(source_us, now_us), quality)

    def _died(self, node: NodeId, device: str | None) -> None:
        """A node died with all its devices (`device` None), or one device did."""
        for (of_node, of_device, _name), indexes in self._indexes.items():
            if of_node == node and device in {None, of_device}:
                for index in indexes:
                    self._readings.fail(index, f"{self._tags[index].node} is offline")


def _quality(metric: Metric) -> Quality:
    """From the property Quality (specification 3.0, 6.4.18): 192 is good, 0 bad, and 500 stale."""
    given = (metric.properties or {}).get(QUALITY)
    if given is None or given.value == GOOD:
        return "good"
    return "bad" if given.value == BAD else "uncertain"
