"""Metrics of the autoscaler for /metrics, from the rows of its targets: every hub of a database shows the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud_hub.database.tables import ScaleTarget


class TargetsCollector(Collector):
    """The targets at a scrape. `active` is whether this hub holds the lease."""

    def __init__(self, rows: Sequence[ScaleTarget], *, active: bool) -> None:
        self._rows, self._active = rows, active

    def collect(self) -> Iterator[Metric]:
        """The metrics, by name."""
        yield GaugeMetricFamily("tidegate_autoscale_active", "1 while this hub decides.", value=int(self._active))
        for name, help_text, value in (
            ("desired", "Desired instances on the platform.", lambda row: row.desired),
            ("ready", "Ready instances on the platform.", lambda row: row.ready),
            ("wanted", "Instances that the last decision wants.", lambda row: row.wanted),
            ("keeps", "Instances that may take work; the others drain.", lambda row: row.keeps),
            ("paused", "1 while a target is paused.", lambda row: int(row.mode == "paused")),
            ("overridden", "1 while a person overrides the policy.", lambda row: int(row.mode == "override")),
            ("drift", "1 while somebody else's count holds.", lambda row: int(bool(row.drift))),
            ("prediction_enabled", "1 while a forecast is used.", lambda row: int(bool(row.backtest.get("enabled")))),
            ("unknown_inputs", "Signals and platforms without a value.", lambda row: len(row.errors)),
            ("last_decision_timestamp_seconds", "When it was last decided.", lambda row: row.decided_us / 1e6),
        ):
            yield self._gauge(name, help_text, value)
        signal = GaugeMetricFamily("tidegate_autoscale_signal", "A signal's value.", labels=["target", "signal"])
        for row in self._rows:
            for reading in row.readings:
                if reading["value"] is not None:
                    signal.add_metric([row.name, reading["signal"]], reading["value"])
        yield signal

    def _gauge(self, name: str, help_text: str, value: Any) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"tidegate_autoscale_{name}", help_text, labels=["target"])
        for row in self._rows:
            found = value(row)
            if found is not None:
                family.add_metric([row.name], found)
        return family
