"""The present values of metrics that write rules need, in memory.

A node reports by exception: a value stands until the node reports another one, as long as the node is alive. So a value
is as old as the last message of its node. When messages of a node were lost, its values are forgotten until its births.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cloud_hub.scada.core.records import Birth, Data, Record
from cloud_hub.scada.core.values import flat, quality_of
from cloud_hub.scada.core.write_values import as_write_value
from cloud_hub.scada.registry import Known
from shared.plant.write_rules import CurrentValue, WriteRule, needed_metrics

Rules = Mapping[tuple[str, str], WriteRule]
"""Rules by device and metric."""


class CurrentValues:
    """Values of the devices that have rules. Written by the host's thread; others read."""

    def __init__(self, rules: Rules) -> None:
        self._watched: dict[str, frozenset[str]] = {}
        for (device, metric), rule in rules.items():
            self._watched[device] = self._watched.get(device, frozenset()) | needed_metrics(rule) | {metric}
        self._values: dict[str, dict[str, CurrentValue]] = {}
        self._heard_us: dict[str, int] = {}

    def is_watched(self, device: str) -> bool:
        """Whether a rule is about this device."""
        return device in self._watched

    def update(self, known: Known, record: Record, now_us: int) -> dict[str, CurrentValue]:
        """Take the values of a message; returns those of watched metrics that it brought."""
        self._heard_us[known.node_digest] = now_us
        watched = self._watched.get(known.device)
        if watched is None or not isinstance(record, Birth | Data):
            return {}
        if isinstance(record, Birth):
            self._values.pop(known.device, None)
        new: dict[str, CurrentValue] = {}
        for name, metric in flat(record.metrics):
            stored = known.names.get(name)
            if stored in watched and stored is not None and not metric.is_historical:
                good = metric.properties is None or quality_of(metric.properties) == "good"
                new[stored] = CurrentValue(value=as_write_value(metric.value), t_us=now_us, good=good)
        self._values[known.device] = self._values.get(known.device, {}) | new
        return new

    def forget(self, devices: Iterable[str]) -> None:
        """These devices are offline, or messages of them were lost."""
        for device in devices:
            self._values.pop(device, None)

    def of(self, device: str, node_digest: str) -> dict[str, CurrentValue]:
        """The values of a device, each as old as the last message of its node."""
        heard_us = self._heard_us.get(node_digest, 0)
        return {
            metric: CurrentValue(value=one.value, t_us=max(one.t_us, heard_us), good=one.good)
            for metric, one in self._values.get(device, {}).items()
        }
