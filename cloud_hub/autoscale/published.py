"""The counts that this hub wants, for platforms that fetch them: KEDA by gRPC, an HPA through Prometheus.

The numbers belong to the process: the scalers of a target, one of the autoscaler and one of the actions, publish the
same one, and REST shows it. A target that has published nothing is absent, so that its HPA holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Listener = Callable[[], None]


class Published(Collector):
    """Wanted counts by target; safe to use from several threads. Also the collector of their metric."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def get(self, target: str) -> int | None:
        """The wanted count, or None."""
        with self._lock:
            return self._counts.get(target)

    def set(self, target: str, count: int) -> None:
        """Publish the count and tell the listeners."""
        with self._lock:
            self._counts[target] = count
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def withdraw(self, target: str) -> None:
        """Publish nothing any more: this hub does not scale the target now."""
        with self._lock:
            self._counts.pop(target, None)
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def listen(self, listener: Listener) -> None:
        """Call `listener` after each change, from the thread that made it."""
        with self._lock:
            self._listeners.append(listener)

    def forget(self, listener: Listener) -> None:
        """Do not call it any more."""
        with self._lock:
            self._listeners.remove(listener)

    def collect(self) -> Iterator[Metric]:
        """The metric, by target."""
        name, text = "tidegate_autoscale_desired_replicas", "Instances that the hub wants for a target."
        family = GaugeMetricFamily(name, text, labels=["target"])
        with self._lock:
            counts = sorted(self._counts.items())
        for target, count in counts:
            family.add_metric([target], count)
        yield family


PUBLISHED = Published()
