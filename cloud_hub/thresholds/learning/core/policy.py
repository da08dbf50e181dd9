"""What a person asks of a learning: which metrics, from how much history, and how carefully it is pushed. Pure."""

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
"""Kinds of metrics that a pattern finds; a counter's level means nothing, a state has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPolicy:
    """Days and seconds as named. `metrics` are names, or patterns with `*` for gauges and scores.

    A refit comes every `refit_days`, from the last `train_days`; `coverage` is the share of ordinary samples inside.
    It is pushed when what was learned before the last `backtest_days` gives at most `max_backtest` alarms a device and
    week on them; to the share `canary` of the devices first, watched for `watch_s`, with at most `max_alarms` alarms
    and `max_false` judged false on all canaries. Limits older than `stale_refits` refits are flagged. `watch` judges
    live telemetry too, with `pages_per_shift` anomalies in 12 hours on all its series together. `peers` is the tag by
    which devices form services ("tags.service"): each is judged beside the others, with as many pages again; of
    metrics that meet `peers_high` only what is higher is of concern.
    `foresee` is the probability of crossing a limit within 15 minutes that warns; 0 is never.
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
                "or more, and tried on what they did not see"
            )

    @property
    def stale_s(self) -> float:
        """When limits are stale, in seconds after their fit."""
        return self.stale_refits * self.refit_days * 86_400.0

    def side(self, metric: str) -> Literal["high", "both"]:
        """On which side of its peers a metric is of concern."""
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

# -- what verdicts change --------------------------------------------------------------------------

WIDER, TIGHTER = 1.25, 0.9
LEAST, MOST = 0.5, 3.0


def widening_factor(false: int, missed: int) -> float:
    """How much wider than fitted, by what people said: each false alarm a quarter more, each missed trouble a tenth
    less, within LEAST..MOST. The same verdicts give the same factor, in whatever order they came.
    """
    return min(MOST, max(LEAST, math.exp(false * math.log(WIDER) + missed * math.log(TIGHTER))))


def widen_limits(limits: Limits, by: float) -> Limits:
    """The limits, `by` times as far from the middle between low and high; a one-sided limit stays as it is."""
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
