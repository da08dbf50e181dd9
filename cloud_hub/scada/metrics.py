"""The metrics of the Sparkplug host for Prometheus, collected at a scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud_hub.scada.host import HostStatus

_COUNTERS = {
    "messages": "Messages that were read.",
    "births": "Births of nodes and devices.",
    "deaths": "Deaths of nodes and devices.",
    "rows": "Samples that were stored.",
    "invalid": "Values that break the rules of their datatype.",
    "unknown": "Metrics that no birth defined.",
    "wrong_times": "Samples whose time was replaced by that of receipt.",
    "refused": "Messages that were refused.",
    "rebirths_requested": "Births that were asked for.",
    "removed": "Messages of removed devices.",
    "failures": "Messages on which the host itself failed.",
}


class SparkplugCollector(Collector):
    """Metrics of one `status`."""

    def __init__(self, status: HostStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """The metrics, by name."""
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"tidegate_sparkplug_{name}", text, value=self._status.counts.get(name, 0))
        yield GaugeMetricFamily("tidegate_sparkplug_queued", "Messages that wait.", value=self._status.queued)
        connected = GaugeMetricFamily(
            "tidegate_sparkplug_connected", "1 while the MQTT server is there.", labels=["server"]
        )
        limited = CounterMetricFamily(
            "tidegate_sparkplug_limited", "Messages over sparkplug.node_rate.", labels=["server"]
        )
        for server in self._status.servers:
            connected.add_metric([server.address], int(server.connected))
            limited.add_metric([server.address], server.limited)
        yield from (connected, limited)
