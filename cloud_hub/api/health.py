"""/healthz for load balancers and supervisors, /metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel

from cloud_hub.api.dependencies import Reader, TheHub
from cloud_hub.autoscale import service as autoscale
from cloud_hub.autoscale.metrics import TargetsCollector
from cloud_hub.autoscale.published import PUBLISHED
from cloud_hub.inference.experts import escalations
from cloud_hub.runtime import items
from cloud_hub.runtime.worker import WorkerStatus
from cloud_hub.scada.metrics import SparkplugCollector
from shared import VERSION

router = APIRouter(tags=["health"])


class FailingWorker(BaseModel):
    """A background worker whose last run failed, or whose thread ended, and since when."""

    name: str
    since_us: int | None


class Health(BaseModel):
    """`degraded`: the broker is not connected, or a background worker fails; the rest keeps working."""

    status: Literal["ok", "degraded"]
    version: str
    broker: bool
    hub_epoch: str
    failing_workers: list[FailingWorker]


def failing(statuses: Sequence[WorkerStatus]) -> list[WorkerStatus]:
    """Workers that fail or have stopped."""
    return [status for status in statuses if status.failing_since_us is not None or status.state == "stopped"]


@router.get("/healthz")
def healthz(hub: TheHub) -> Health:
    """The health of the hub, its broker connection and its background workers. Needs no token; always 200."""
    bad = [FailingWorker(name=status.name, since_us=status.failing_since_us) for status in failing(hub.workers())]
    broker = hub.connected()
    return Health(
        status="ok" if broker and not bad else "degraded", version=VERSION, broker=broker, hub_epoch=hub.db.hub_epoch,
        failing_workers=bad,
    )  # fmt: skip


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(hub: TheHub, caller: Reader) -> Response:
    """The metrics of the hub in Prometheus text format; needs a token without a scope."""
    caller.needs_all()
    with hub.db.read() as session:
        failed = items.counts(session)
        waiting = escalations.waiting(session)
        targets = autoscale.list_targets(session)
    registry = CollectorRegistry()
    registry.register(_Snapshot(hub.connected(), hub.workers(), failed, waiting))
    active = hub.autoscale is not None and hub.autoscale.lease.token is not None
    registry.register(TargetsCollector(targets, active=active))
    content = generate_latest(registry) + generate_latest(hub.expert_metrics.registry)
    if hub.sparkplug is not None:
        registry = CollectorRegistry()
        registry.register(SparkplugCollector(hub.sparkplug.status()))
        content += generate_latest(registry)
    content += generate_latest(PUBLISHED.registry)
    if hub.gateway is not None:
        content += generate_latest(hub.gateway.metrics.registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


class _Snapshot(Collector):
    """Collects all metrics at a scrape; it counts nothing itself, so threads share no state."""

    def __init__(
        self, broker: bool, workers: Sequence[WorkerStatus], failed: dict[str, tuple[int, int]],
        escalations: dict[str, int],
    ) -> None:  # fmt: skip
        self._broker, self._workers, self._failed = broker, workers, failed
        self._escalations = escalations

    def collect(self) -> Iterator[Metric]:
        """The metrics, by name."""
        info = GaugeMetricFamily("tidegate_hub_info", "The hub's version.", labels=["version"])
        info.add_metric([VERSION], 1)
        yield info
        yield GaugeMetricFamily("tidegate_broker_connected", "1 while the broker is there.", value=int(self._broker))
        runs = CounterMetricFamily("tidegate_worker_runs", "Runs of a background worker.", labels=["worker"])
        failures = CounterMetricFamily("tidegate_worker_failures", "Failed runs.", labels=["worker"])
        state = GaugeMetricFamily("tidegate_worker_failing", "1 while a worker fails or has ended.", labels=["worker"])
        good = GaugeMetricFamily(
            "tidegate_worker_last_success_timestamp_seconds", "When a run last succeeded.", labels=["worker"]
        )
        bad = {status.name for status in failing(self._workers)}
        for status in self._workers:
            runs.add_metric([status.name], status.runs)
            failures.add_metric([status.name], status.failed_runs)
            state.add_metric([status.name], int(status.name in bad))
            if status.succeeded_us is not None:
                good.add_metric([status.name], status.succeeded_us / 1e6)
        yield from (runs, failures, state, good)
        parked = GaugeMetricFamily("tidegate_worker_parked_items", "Items that wait for a person.", labels=["worker"])
        waiting = GaugeMetricFamily("tidegate_worker_retrying_items", "Items tried again.", labels=["worker"])
        for worker in sorted({status.name for status in self._workers} | self._failed.keys()):
            counts = self._failed.get(worker, (0, 0))
            parked.add_metric([worker], counts[0])
            waiting.add_metric([worker], counts[1])
        yield from (parked, waiting)
        frames = GaugeMetricFamily("tidegate_expert_waiting", "Frames that wait for an expert.", labels=["model"])
        for model, count in sorted(self._escalations.items()):
            frames.add_metric([model], count)
        yield frames
