"""What the agent knows, as metrics of the edge node: samples, results of models, alarms, settings, outcomes of writes.

Each method returns the changes to send by exception. Metrics of the agent itself, which no template names:

| name | type | value |
|---|---|---|
| `Alarms/<metric>/<condition>` | Boolean | whether such an alarm is active; beside its metric |
| `Alarms/Active` | Int32 | number of active alarms |
| `Settings/<key>` | Double, String | settings in force |
| `Writes/<metric>` | String | outcome of the last write; beside its metric |
| `Properties/Tidegate Device`, `Properties/Tidegate Version` | String | device id and version of the agent |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge_agent.config.sparkplug import Sparkplug
from edge_agent.sparkplug.core.naming import ALARMS, PROPERTIES, SETTINGS, Naming, Place
from edge_agent.sparkplug.core.reporting import Deadbands, Value
from edge_agent.sparkplug.core.tags import QUALITY_CODES, Change, TagDefinition, TagTable
from shared.protocol.messages import Alarm, Metric, Sample
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.payload import GOOD

DEVICE_PROPERTY = f"{PROPERTIES}Tidegate Device"
"""By this metric a Tidegate hub recognizes that the node is one of its own devices."""
VERSION_PROPERTY = f"{PROPERTIES}Tidegate Version"
SETTING = "settings."
"""Beginning of the names of settings in rules for writes."""
ACTIVE_ALARMS = "alarms:active"
KIND_TYPES = {"boolean": DataType.Boolean, "text": DataType.String}


class NodeImage:
    """The metrics of the node `[sparkplug]` of `device`, in `tags` by key: a metric's name, or a kind and a colon."""

    def __init__(self, config: Sparkplug, device: str, version: str, sources: Mapping[str, str], t_ms: int) -> None:
        self._config = config
        self._naming = Naming(config, device, sources)
        self._deadbands = Deadbands(config)
        self._rules = {rule.metric: rule for rule in config.writable}
        self._active: dict[str, set[str]] = {}
        self.tags = TagTable()
        for name, value in ((DEVICE_PROPERTY, device), (VERSION_PROPERTY, version)):
            self._own(f"property:{name}", Place("", name), DataType.String, t_ms)
            self.tags.update(f"property:{name}", value, GOOD, t_ms)
        if config.alarms:
            self._own(ACTIVE_ALARMS, Place("", f"{ALARMS}Active"), DataType.Int32, t_ms)
            self.tags.update(ACTIVE_ALARMS, 0, GOOD, t_ms)

    def declare(self, metrics: Iterable[Metric], t_ms: int) -> None:
        """Define these metrics, and the outcomes of writes to those that are writable."""
        for metric in metrics:
            self._define(metric, t_ms)

    def sample(self, sample: Sample) -> list[Change]:
        """A sample of a collector, a model or the agent; a metric that was not declared is defined now."""
        t_ms = sample.t_us // 1000
        if sample.metric not in self.tags and not self._define(Metric(name=sample.metric), t_ms):
            return []
        return _listed(self.tags.update(sample.metric, sample.value, QUALITY_CODES[sample.quality], t_ms))

    def alarm(self, alarm: Alarm) -> list[Change]:
        """An alarm was raised or cleared."""
        return self.alarm_state(alarm.metric, _condition(alarm), alarm.id, alarm.state == "raised", alarm.t_us // 1000)

    def alarm_state(self, metric: str, condition: str, alarm_id: str, raised: bool, t_ms: int) -> list[Change]:
        """Several alarms may share a metric and a condition: the value is true while one of them is active."""
        place = self._naming.alarm(metric, condition) if self._config.alarms else None
        if place is None:
            return []
        key = f"alarm:{metric}/{condition}"
        active = self._active.setdefault(key, set())
        (active.add if raised else active.discard)(alarm_id)
        self._own(key, place, DataType.Boolean, t_ms)
        total = sum(map(len, self._active.values()))
        changes = _listed(self.tags.update(key, bool(active), GOOD, t_ms))
        if not active:
            del self._active[key]
        return changes + _listed(self.tags.update(ACTIVE_ALARMS, total, GOOD, t_ms))

    def settings(self, values: Mapping[str, Value], t_ms: int) -> list[Change]:
        """The settings in force."""
        if not self._config.settings:
            return []
        changes = []
        for name, value in values.items():
            key = SETTING + name
            datatype = DataType.String if isinstance(value, str) else DataType.Double
            self._own(key, Place("", SETTINGS + name), datatype, t_ms)
            if key in self._rules:
                self._define_outcome(key, t_ms)
            changes += _listed(self.tags.update(key, value, GOOD, t_ms))
        return changes

    def outcome(self, metric: str, text: str, t_ms: int) -> list[Change]:
        """What became of the last write to a metric."""
        return _listed(self.tags.update(f"write:{metric}", text, GOOD, t_ms))

    def metric_at(self, device: str, name: str) -> str | None:
        """The agent's name of a metric; None if the metric is not one of a collector, model or setting."""
        key = self.tags.key(Place(device, name))
        return None if key is None or ":" in key else key

    # -- definitions -----------------------------------------------------------------------------------

    def _define(self, metric: Metric, t_ms: int) -> bool:
        place = self._naming.place(metric.name)
        if place is None:
            return False
        rule = self._rules.get(metric.name)
        datatype = DataType.String if metric.kind == "state" else DataType.Double
        if rule is not None:
            datatype = KIND_TYPES.get(rule.kind, datatype)
        found = TagDefinition(
            place=place, datatype=datatype, unit=metric.unit, low=metric.low, high=metric.high,
            band=self._deadbands.of(metric.name, metric.low, metric.high),
        )  # fmt: skip
        if not self.tags.define(metric.name, found, t_ms):
            return False
        if rule is not None:
            self._define_outcome(metric.name, t_ms)
        return True

    def _define_outcome(self, metric: str, t_ms: int) -> None:
        place = Place("", f"Writes/{metric}") if metric.startswith(SETTING) else self._naming.write(metric)
        key = f"write:{metric}"
        if place is not None and key not in self.tags:
            self._own(key, place, DataType.String, t_ms)
            self.tags.update(key, "", GOOD, t_ms)

    def _own(self, key: str, place: Place, datatype: DataType, t_ms: int) -> None:
        self.tags.define(key, TagDefinition(place=place, datatype=datatype, own=True), t_ms)


def _condition(alarm: Alarm) -> str:
    """What an alarm is about, as the last part of its name: `high`, `low`, `rate-high`, `no-data`, `flat`."""
    if not alarm.about:
        return alarm.kind
    return f"{alarm.about}-{alarm.kind}" if alarm.about in {"rate"} else alarm.about


def _listed(change: Change | None) -> list[Change]:
    return [] if change is None else [change]
