"""The counts that this hub wants, for platforms that fetch them: KEDA by gRPC, an HPA through Prometheus.

The numbers belong to the process: the scalers of a target, one of the autoscaler and one of the actions, publish the
same one, and REST shows it. A target that has published nothing is absent, so that its HPA holds. So is one whose
count was not confirmed for a while: this hub lost its lease, its autoscaler hangs, or the target was removed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Listener = Callable[[], None]


class Published(Collector):
    """Wanted counts by target; safe to use from several threads. Also the collector of their metric."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}  # and until when it counts, on the monotonic clock
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def get(self, target: str) -> int | None:
        """The wanted count, or None."""
        return self._fresh().get(target)

    def set(self, target: str, count: int, fresh_s: float = math.inf) -> None:
        """Publish or confirm the count for `fresh_s` seconds, and tell the listeners."""
        with self._lock:
            self._counts[target] = (count, time.monotonic() + fresh_s)
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
        for target, count in sorted(self._fresh().items()):
            family.add_metric([target], count)
        yield family

    def _fresh(self) -> dict[str, int]:
        now = time.monotonic()
        with self._lock:
            return {target: count for target, (count, until) in self._counts.items() if now < until}


PUBLISHED = Published()
