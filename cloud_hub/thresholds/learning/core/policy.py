"""The policy of a learning job: which metrics, from how much history, and how carefully limits are rolled out. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from cloud_hub.thresholds.learning.core.safeguards import CYCLES
from shared.thresholds import Limits

_PATTERN = re.compile(r"[a-z0-9_./*-]{1,100}\Z")
_TAG = re.compile(r"tags(\.[^.$ \"\\\x00-\x1f\x7f-\x9f]{1,200}){1,10}\Z")
FITTED = {"gauge", "score"}
"""Kinds of metrics that a pattern matches; the level of a counter has no meaning, and a state has no level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPolicy:
    """Settings of a learning job: what is learned, how it is rolled out, and which live monitoring runs on it.

    - `metrics`: names, or patterns with `*` that match gauges and scores.
    - `train_days`, `refit_days`: history of each fit, and time between fits. `coverage`: share of samples inside.
    - `backtest_days`, `max_backtest`: limits learned before the last `backtest_days` may raise at most so many alarms
      per device and week on these days, else they are not pushed.
    - `canary`, `watch_s`: share of the devices that get the limits first, and how long they are watched; at most
      `max_alarms` alarms and `max_false_alarms` judged false on all canaries.
    - `stale_refits`: limits older than so many refits are flagged.
    - `monitor`: judge live telemetry too, with `pages_per_shift` anomalies in 12 hours on all series together.
    - `peers`: the tag that groups devices into services ("tags.service"). Each device is compared with its peers, with
      the same budget again. Metrics that match `peers_high` alarm only when higher than the peers.
    - `warn_probability`: probability of crossing a limit within 15 minutes that raises a warning; 0 is never.
    """

    metrics: tuple[str, ...]
    train_days: float = 14.0
    refit_days: float = 1.0
    coverage: float = 0.998
    backtest_days: float = 7.0
    max_backtest: float = 7.0
    canary: float = 0.05
    watch_s: float = 3600.0
    max_alarms: int = 3
    max_false_alarms: int = 1
    stale_refits: int = 3
    monitor: bool = False
    pages_per_shift: float = 2.0
    peers: str = ""
    peers_high: tuple[str, ...] = ()
    warn_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.peers and not _TAG.match(self.peers):
            raise ValueError("peers: the tag that names a device's service, such as tags.service; nothing turns it off")
        if len(self.peers_high) > 100 or not all(_PATTERN.match(name) for name in self.peers_high):
            raise ValueError("peers_high: at most 100 names of metrics, or patterns with *")
        if not 1 <= len(self.metrics) <= 100 or not all(_PATTERN.match(name) for name in self.metrics):
            raise ValueError("metrics: 1 to 100 names of metrics, or patterns with *")
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if not math.isfinite(value) or not least <= value <= most:
                raise ValueError(f"{name} must be within {least:g}..{most:g}, not {value:g}")
        if self.train_days - self.backtest_days < CYCLES:
            raise ValueError(
                f"train_days must be above backtest_days by {CYCLES} at least: limits are learned from {CYCLES} days "
                "or more, and tested on later days"
            )

    @property
    def stale_s(self) -> float:
        """Age in seconds, since their fit, at which limits are stale."""
        return self.stale_refits * self.refit_days * 86_400.0

    def side(self, metric: str) -> Literal["high", "both"]:
        """The side on which a metric alarms when it differs from its peers."""
        return "high" if any(fnmatchcase(metric, one) for one in self.peers_high) else "both"

    def wants(self, metric: str, kind: str) -> bool:
        """Whether a metric of this kind is learned."""
        return metric in self.metrics or (kind in FITTED and any(fnmatchcase(metric, one) for one in self.metrics))


_RANGES = (
    ("train_days", 0.01, 400.0), ("refit_days", 0.0001, 60.0), ("coverage", 0.96, 0.999999),
    ("backtest_days", 0.001, 100.0), ("max_backtest", 0.0, 1e6), ("canary", 0.0, 1.0), ("watch_s", 0.1, 30 * 86400.0),
    ("max_alarms", 0, 1_000_000), ("max_false_alarms", 0, 1_000_000), ("stale_refits", 1, 1000),
    ("pages_per_shift", 0.001, 1e6), ("warn_probability", 0.0, 1.0),
)  # fmt: skip

# -- verdicts --------------------------------------------------------------------------------------

WIDER, TIGHTER = 1.25, 0.9
LEAST, MOST = 0.5, 3.0


def widening_factor(false: int, missed: int) -> float:
    """How much wider than fitted the limits are made: each false alarm a quarter wider, each missed fault a tenth
    narrower, within LEAST..MOST. The order of verdicts does not matter.
    """
    return min(MOST, max(LEAST, math.exp(false * math.log(WIDER) + missed * math.log(TIGHTER))))


def widen_limits(limits: Limits, by: float) -> Limits:
    """Limits `by` times as far from the middle between low and high; a one-sided limit is unchanged."""
    if by == 1.0:
        return limits
    pairs = [_apart(low, high, by) for low, high in zip(limits.lows, limits.highs, strict=False)]
    low, high = limits.low, limits.high
    if low is not None and high is not None:
        low, high = _apart(low, high, by)
    both = bool(limits.lows and limits.highs)
    return replace(
        limits, low=low, high=high, lows=tuple(pair[0] for pair in pairs) if both else limits.lows,
        highs=tuple(pair[1] for pair in pairs) if both else limits.highs,
    )  # fmt: skip


def _apart(low: float, high: float, by: float) -> tuple[float, float]:
    middle, half = low / 2 + high / 2, (high / 2 - low / 2) * by
    return middle - half, middle + half
