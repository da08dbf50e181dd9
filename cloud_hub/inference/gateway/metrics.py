"""Prometheus metrics of the gateway."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from cloud_hub.inference.gateway.calls import Call, Outcome

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
