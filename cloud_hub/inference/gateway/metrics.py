"""Prometheus metrics of the gateway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud_hub.inference.gateway.calls import Call, Outcome
from cloud_hub.inference.gateway.core.breaker import State
from cloud_hub.inference.gateway.core.classes import RequestClass

STATES: tuple[State, ...] = ("closed", "half-open", "open")

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class GatewayMetrics:
    """Counters and histograms in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        by_class = ["pool", "request_class"]
        self.requests = Counter(
            "tidegate_inference_requests", "Requests by how they ended.", [*by_class, "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.refusals = Counter(
            "tidegate_inference_refusals", "Refused requests.", ["code", "request_class"], registry=self.registry
        )
        self.wait = Histogram(
            "tidegate_inference_queue_wait_seconds", "Time in the queue.", by_class, buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.first = Histogram(
            "tidegate_inference_time_to_first_token_seconds", "Time from the arrival to the first part of the answer.",
            by_class, buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter("tidegate_inference_tokens", "Tokens.", ["pool", "direction"], registry=self.registry)
        self.cost = Counter(
            "tidegate_inference_cost", "Cost, in the unit of the prices.", ["pool"], registry=self.registry
        )
        self.cache = Counter("tidegate_inference_cache", "Cache look-ups.", ["result"], registry=self.registry)
        self.attempts = Counter(
            "tidegate_inference_attempts", "Requests to an address by result.", ["pool", "address", "result"],
            registry=self.registry,
        )  # fmt: skip
        self.redactions = Counter("tidegate_inference_redactions", "Replaced values.", ["kind"], registry=self.registry)

    def record(self, call: Call, outcome: Outcome) -> None:
        """Count a call that has ended."""
        labels = (outcome.pool, call.request_class)
        self.requests.labels(*labels, outcome.state).inc()
        for kind, count in outcome.redactions.items():
            self.redactions.labels(kind).inc(count)
        if outcome.first_s is None or outcome.cached:
            return
        self.wait.labels(*labels).observe(outcome.wait_s)
        self.first.labels(*labels).observe(outcome.first_s)
        self.tokens.labels(outcome.pool, "in").inc(outcome.tokens_in)
        self.tokens.labels(outcome.pool, "out").inc(outcome.tokens_out)
        self.cost.labels(outcome.pool).inc(outcome.money)


class PoolState(Protocol):
    """What is shown of a pool."""

    @property
    def waiting(self) -> dict[RequestClass, int]: ...

    @property
    def running(self) -> int: ...

    @property
    def addresses(self) -> dict[str, tuple[State, int]]: ...


class PoolCollector(Collector):
    """Reads the state of the pools at a scrape."""

    def __init__(self, pools: Mapping[str, PoolState]) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        """The metrics, by name."""
        depth = GaugeMetricFamily(
            "tidegate_inference_queue_depth", "Waiting requests.", labels=["pool", "request_class"]
        )
        running = GaugeMetricFamily("tidegate_inference_running", "Requests with a slot.", labels=["pool"])
        breaker = GaugeMetricFamily(
            "tidegate_inference_breaker_state", "0 closed, 1 half-open, 2 open.", labels=["pool", "address"]
        )
        outstanding = GaugeMetricFamily(
            "tidegate_inference_outstanding_tokens", "Tokens of requests under way.", labels=["pool", "address"]
        )
        for name, pool in self._pools.items():
            for request_class, count in pool.waiting.items():
                depth.add_metric([name, request_class], count)
            running.add_metric([name], pool.running)
            for address, (state, tokens) in pool.addresses.items():
                breaker.add_metric([name, address], STATES.index(state))
                outstanding.add_metric([name, address], tokens)
        yield from (depth, running, breaker, outstanding)
