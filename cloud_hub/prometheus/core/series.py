"""What Prometheus tells: series with their labels, and alerting rules. A core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series: its labels, and values (float64, NaN where the server has NaN) at `t_us` (int64, rising)."""

    labels: Labels
    t_us: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An alerting rule: its expression, worked out each `interval_s`, must hold for `for_s` seconds.

    `labels` are added to its alerts.
    """

    name: str
    query: str
    for_s: float = 0.0
    interval_s: float = 0.0
    labels: Labels = field(default_factory=dict)

    def matches_alert(self, labels: Labels) -> bool:
        """Whether an alert with these labels is this rule's. What is a template in the rule may be anything."""
        fits = all("{{" in value or labels.get(key) == value for key, value in self.labels.items())
        return labels.get("alertname") == self.name and fits
