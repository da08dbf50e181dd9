"""Prometheus metrics of experts, by the device's name of the model."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cloud_hub.inference.experts import Opinion

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ExpertMetrics:
    """Counters and histograms in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._info = Gauge(
            "tidegate_expert_info", "1 for each expert that is loaded.", ["model", "expert"], registry=self.registry
        )
        self._answers = Counter(
            "tidegate_expert_answers", "Answered frames: with a label, without one, or failed.", ["model", "result"],
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "tidegate_expert_batch_seconds", "Time of an expert for a batch of frames.", ["model"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._cost = Counter(
            "tidegate_expert_cost", "Cost, in the unit of the pools' prices.", ["model"], registry=self.registry
        )

    def loaded(self, model: str, expert: str) -> None:
        """An expert is there."""
        self._info.labels(model, expert).set(1)

    def answered(self, model: str, opinions: Sequence[Opinion], took_s: float) -> None:
        """A batch was answered."""
        self._seconds.labels(model).observe(took_s)
        for opinion in opinions:
            self._answers.labels(model, "label" if opinion.label or opinion.values else "no_label").inc()
            self._cost.labels(model).inc(opinion.cost)

    def failed(self, model: str, frames: int) -> None:
        """A batch was not answered; its frames are tried again."""
        self._answers.labels(model, "failed").inc(frames)
