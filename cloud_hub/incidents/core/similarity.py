"""How alike an incident and a past case are: a distance that people can read. Pure.

The distance is the sum of the weights of the features that differ, 0 (alike) to 1. A feature that is unknown on one
side counts half. Metrics are compared by the share that they have in common, without the name of a model: `left/age_s`
and `right/age_s` are the same metric.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

WEIGHTS = {"metrics": 0.45, "cause": 0.2, "profile": 0.15, "service": 0.1, "device": 0.1}
FAR = 0.6
"""A case that is at least this far away is not shown: it shares neither metrics nor cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What an incident is compared by; '' where it is not known."""

    metrics: frozenset[str]
    cause: str = ""
    profile: str = ""
    service: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """The distance, and the names of the features that are alike and that differ."""

    value: float
    alike: tuple[str, ...]
    unlike: tuple[str, ...]

    def __str__(self) -> str:
        """Such as `0.15 (same metrics, cause, device; other profile)`."""
        same = f"same {', '.join(self.alike)}" if self.alike else "nothing the same"
        return f"{self.value:.2f} ({same}{'; other ' + ', '.join(self.unlike) if self.unlike else ''})"


def metric_names(metrics: Collection[str]) -> frozenset[str]:
    """Names of metrics without the name of the model that they belong to."""
    return frozenset(name.rpartition("/")[2] for name in metrics)


def distance(one: Features, other: Features) -> Distance:
    """How far two incidents are apart."""
    total, alike, unlike = 0.0, list[str](), list[str]()
    for name, weight in WEIGHTS.items():
        share = _metrics(one, other) if name == "metrics" else _same(getattr(one, name), getattr(other, name))
        total += weight * (0.5 if share is None else 1 - share)
        if share is not None:
            (alike if share >= 0.5 else unlike).append(name)
    return Distance(value=total, alike=tuple(alike), unlike=tuple(unlike))


def _metrics(one: Features, other: Features) -> float | None:
    either = one.metrics | other.metrics
    return len(one.metrics & other.metrics) / len(either) if either else None


def _same(one: str, other: str) -> float | None:
    return float(one == other) if one and other else None
