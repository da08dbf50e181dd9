"""Report by exception: which new values of a metric are sent.

A value is sent if it is the first, if its quality changed, if it differs from the last one sent by more than the
deadband, or if nothing was sent for `max_silence_s`. Comparing with the last value *sent*, not the last one seen,
bounds what a host may miss to the deadband, however slowly a value drifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edge_agent.config.sparkplug import Reporting, Sparkplug

Value = float | str | bool | None


@dataclass(frozen=True, slots=True)
class Deadband:
    """A change of at most `width` is not sent; an unchanged value is sent after `silence_ms`, never if 0."""

    width: float = 0.0
    silence_ms: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its quality code and its time (ms)."""

    value: Value
    quality: int
    t_ms: int


def is_due(last: Point | None, new: Point, band: Deadband) -> bool:
    """Whether `new` is sent; `last` is the last point that was sent."""
    if last is None or last.quality != new.quality or type(last.value) is not type(new.value):
        return True
    if band.silence_ms and new.t_ms - last.t_ms >= band.silence_ms:
        return True
    if isinstance(new.value, float) and isinstance(last.value, float):
        return abs(new.value - last.value) > band.width
    return new.value != last.value


class Deadbands:
    """The deadband of each metric: the first matching `[[sparkplug.reporting]]`, else that of `[sparkplug]`."""

    def __init__(self, config: Sparkplug) -> None:
        default = Reporting(
            metrics=["*"], deadband=config.deadband, deadband_percent=config.deadband_percent,
            max_silence_s=config.max_silence_s,
        )  # fmt: skip
        self._rules: Sequence[Reporting] = [*config.reporting, default]

    def of(self, metric: str, low: float | None, high: float | None) -> Deadband:
        """The deadband; the percentage is of the range `low` to `high`, and has no effect without one."""
        rule = next(rule for rule in self._rules if any(fnmatchcase(metric, pattern) for pattern in rule.metrics))
        span = abs(high - low) if low is not None and high is not None else 0.0
        width = max(rule.deadband, span * rule.deadband_percent / 100)
        return Deadband(width, int(rule.max_silence_s * 1000))
