"""Alarm rules other than limits: rate of change, no data, flat signal, condition over several metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shared.ids import first_duplicate, metric_name
from shared.protocol.messages import Priority, check_finite
from shared.thresholds import expressions
from shared.thresholds.limits import Limits
from shared.thresholds.schedule import week_windows

LONGEST_S = 30 * 86_400.0
"""Maximum `after_s` of no-data and flat rules."""


def _after(metric: str, after_s: float) -> None:
    check_finite(f"after_s of {metric}", after_s)
    if not 1 <= after_s <= LONGEST_S:
        raise ValueError(f"after_s of {metric} must be within 1..{LONGEST_S:g}, not {after_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Limits of the rate of change: `limits` apply to the change per second over the last `span_s` seconds."""

    limits: Limits
    span_s: float = 60.0

    def __post_init__(self) -> None:
        check_finite(f"span_s of {self.limits.metric}", self.span_s)
        if not 0.1 <= self.span_s <= 86_400:
            raise ValueError(f"span_s of {self.limits.metric} must be within 0.1..86400, not {self.span_s}")

    @property
    def metric(self) -> str:
        """The metric of the limits."""
        return self.limits.metric

    @property
    def priority(self) -> Priority:
        """The priority of the limits."""
        return self.limits.priority


@dataclass(frozen=True, slots=True, kw_only=True)
class NoData:
    """Alarm when no sample with a value arrives for `after_s` seconds while the device is awake."""

    metric: str
    after_s: float
    priority: Priority = "medium"
    schedule: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        metric_name(self.metric)
        week_windows(self.schedule)
        _after(self.metric, self.after_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """Alarm when a value stays within `tolerance` for `after_s` seconds: a stuck sensor."""

    metric: str
    after_s: float
    tolerance: float = 0.0
    priority: Priority = "medium"
    schedule: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        metric_name(self.metric)
        week_windows(self.schedule)
        _after(self.metric, self.after_s)
        check_finite(f"tolerance of {self.metric}", self.tolerance)
        if self.tolerance < 0:
            raise ValueError(f"tolerance of {self.metric} must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A condition over several metrics (see `expressions`); `metric` is the metric name of its alarm.

    It is evaluated with each sample of its metrics, unless one of them is missing or was measured more than `stale_s`
    seconds apart from that sample.
    """

    metric: str
    when: str
    on_delay_s: float = 0.0
    off_delay_s: float = 0.0
    stale_s: float = 60.0
    priority: Priority = "medium"
    schedule: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        metric_name(self.metric)
        week_windows(self.schedule)
        expressions.parse(self.when)
        check_finite(f"delays of {self.metric}", self.on_delay_s, self.off_delay_s, self.stale_s)
        if min(self.on_delay_s, self.off_delay_s) < 0 or self.stale_s <= 0:
            raise ValueError(f"delays of {self.metric} must not be negative, stale_s must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRules:
    """A set of alarm rules, applied atomically (P2); at most one of each kind for a metric."""

    rates: tuple[Rate, ...] = ()
    no_data: tuple[NoData, ...] = ()
    flat: tuple[Flat, ...] = ()
    expressions: tuple[Expression, ...] = ()

    def __post_init__(self) -> None:
        for rules in (self.rates, self.no_data, self.flat, self.expressions):
            if (twice := first_duplicate(rule.metric for rule in rules)) is not None:
                raise ValueError(f"{twice} has two alarm rules of the same kind")

    def __iter__(self) -> Iterator[Rate | NoData | Flat | Expression]:
        yield from self.rates
        yield from self.no_data
        yield from self.flat
        yield from self.expressions
