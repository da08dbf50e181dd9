"""Rules for writes to plant equipment: which metric may be set, to what, how often, and under which conditions.

A metric without a rule cannot be written. A rule needs bounds (`low` and `high`) or a list of allowed values. A value
that a decision needs and that is missing, stale or bad refuses the write. The rules are not a safety function.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from shared.ids import metric_name
from shared.thresholds.expressions import parse

WriteValue = float | str | bool
"""A value to write: bool before float, because a bool is also an int in Python."""

Code = Literal[
    "type", "range", "allowed", "step", "rate", "interlock", "stale", "undeclared", "disabled", "busy", "unsupported"
]
"""Why a write is refused. The last four are not for `judge_write`: the metric has no rule, writes to it are not on,
another one is under way, nothing can carry it out."""

CLOSE = 1e-6
"""Relative difference of two equal numbers, one of which was sent as a 32-bit float; whole numbers have none."""
MINUTE_US = 60_000_000
MAX_ALLOWED, MAX_TEXT = 100, 200
"""Maximum number of allowed values, and characters of one."""


class WriteRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be written to `metric`.

    `low` and `high` bound a number, in the metric's unit. `allowed` are the only values; texts and booleans need it.
    `max_step` is the largest difference from the present value. At most `per_minute` writes a minute, and
    `min_interval_s` seconds between two. `only_while` is a condition on other metrics, such as `line.speed == 0`.
    Values that a check needs must be good and at most `max_age_s` old. The value that is read back must be within
    `tolerance` of the written one, in at most `verify_s` seconds.
    """

    metric: str
    low: float | None = None
    high: float | None = None
    allowed: list[WriteValue] = []
    max_step: float | None = None
    per_minute: int = 6
    min_interval_s: float = 0.0
    only_while: str = ""
    max_age_s: float = 10.0
    tolerance: float = 0.0
    verify_s: float = 10.0

    def __post_init__(self) -> None:
        metric_name(self.metric)
        self._check_bounds()
        self._check_allowed()
        for name, value, low, high in (
            ("per_minute", self.per_minute, 1, 600),
            ("min_interval_s", self.min_interval_s, 0, 86400),
            ("max_age_s", self.max_age_s, 0.1, 86400),
            ("tolerance", self.tolerance, 0, 1e300),
            ("verify_s", self.verify_s, 0.1, 600),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} of {self.metric} must be within {low:g}..{high:g}")
        if self.only_while:
            parse(self.only_while)

    def _check_bounds(self) -> None:
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if len(bounds) == 1 or (not bounds and not self.allowed):
            raise ValueError(f"{self.metric} needs both low and high, or a list of allowed values")
        if not all(map(math.isfinite, bounds)) or bounds != sorted(bounds):
            raise ValueError(f"low and high of {self.metric} must be finite numbers, low first")
        if self.max_step is not None and not 0 < self.max_step < math.inf:
            raise ValueError(f"max_step of {self.metric} must be a number above 0")

    def _check_allowed(self) -> None:
        kinds = {kind_of(value) for value in self.allowed}
        if len(kinds) > 1:
            raise ValueError(f"allowed values of {self.metric} must be of one type: numbers, booleans or texts")
        if len(self.allowed) > MAX_ALLOWED or any(len(str(value)) > MAX_TEXT for value in self.allowed):
            raise ValueError(f"{self.metric} allows at most {MAX_ALLOWED} values of {MAX_TEXT} characters")
        if kinds == {"number"} and not all(math.isfinite(float(value)) for value in self.allowed):
            raise ValueError(f"allowed values of {self.metric} must be finite")
        if self.kind != "number" and (self.low is not None or self.max_step is not None):
            raise ValueError(f"low, high and max_step of {self.metric} are for numbers, its allowed values are not")

    @property
    def kind(self) -> Literal["number", "boolean", "text"]:
        """The type of value that it takes."""
        return kind_of(self.allowed[0]) if self.allowed else "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentValue:
    """The last known value of a metric, its time, and whether its quality is good."""

    value: WriteValue | None
    t_us: int
    good: bool = True


@dataclass(frozen=True, slots=True)
class Allowed:
    """The write may go ahead with `value`, which is the requested one without rounding errors of 32-bit floats."""

    value: WriteValue


@dataclass(frozen=True, slots=True)
class Refused:
    """The write must not happen: the reason, and what a person can do about it."""

    code: Code
    reason: str
    cure: str

    def __str__(self) -> str:
        return f"{self.reason}. {self.cure}"


def kind_of(value: WriteValue) -> Literal["number", "boolean", "text"]:
    """The type of a value."""
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def judge_write(
    rule: WriteRule, value: object, current: Mapping[str, CurrentValue], history: Iterable[int], now_us: int
) -> Allowed | Refused:
    """Decide on one write of `value` to the metric of `rule`.

    `current` are the last known values by metric: that of the metric itself if the rule has a `max_step`, and those in
    `only_while`. `history` are the times of the earlier writes to this metric that were allowed; `now_us` is a time of
    the same clock. All times are in microseconds.
    """
    wanted = _in_bounds(rule, value)
    if isinstance(wanted, Refused):
        return wanted
    refused = _rate(rule, history, now_us) or _step(rule, wanted, current, now_us) or _interlock(rule, current, now_us)
    return refused or Allowed(wanted)


def needed_metrics(rule: WriteRule) -> frozenset[str]:
    """Names of the metrics whose current value the rule needs."""
    own = frozenset({rule.metric}) if rule.max_step is not None else frozenset[str]()
    return own | (parse(rule.only_while).metrics if rule.only_while else frozenset())


def is_verified(rule: WriteRule, written: WriteValue, read: WriteValue | None) -> bool:
    """Whether the value that was read back is the written one. A boolean may be read back as 0 or 1."""
    if read is None or (isinstance(written, str) or isinstance(read, str)):
        return written == read
    return abs(float(written) - float(read)) <= rule.tolerance or _close(float(written), read)


# -- checks ------------------------------------------------------------------------------------------


def _in_bounds(rule: WriteRule, value: object) -> WriteValue | Refused:
    """`value` itself, or the bound or allowed value that it is as a 32-bit float."""
    if not isinstance(value, (bool, int, float, str)) or kind_of(value) != rule.kind:
        return Refused("type", f"{_shown(value)} is no {rule.kind}", f"Write a {rule.kind} to {rule.metric}")
    if isinstance(value, float) and not math.isfinite(value):
        return Refused("type", f"{value} is no finite number", "Write a finite number")
    return _listed(rule, value) if rule.allowed else _between(rule, value)


def _listed(rule: WriteRule, value: WriteValue) -> WriteValue | Refused:
    alike = [one for one in rule.allowed if rule.kind == "number" and _close(float(one), value)]
    for allowed in [one for one in rule.allowed if one == value] or alike:
        return allowed if rule.low is None else _between(rule, allowed)
    shown = ", ".join(map(_shown, rule.allowed[:10]))
    return Refused("allowed", f"{_shown(value)} is not an allowed value", f"Write one of: {shown}")


def _between(rule: WriteRule, value: WriteValue) -> WriteValue | Refused:
    if rule.low is None or rule.high is None or isinstance(value, str):  # never for a rule that was constructed
        return Refused("range", f"{rule.metric} has no bounds", "Give it low and high")
    if rule.low <= value <= rule.high:
        return value
    bound = rule.low if value < rule.low else rule.high
    if _close(bound, value):
        return bound
    side = "below low" if value < rule.low else "above high"
    return Refused("range", f"{_shown(value)} is {side} {bound:g}", f"Write {rule.low:g}..{rule.high:g}")


def _close(number: float, value: WriteValue) -> bool:
    try:
        number, other = float(number), float(value)
    except OverflowError:  # an integer beyond the range of a float
        return False
    if number.is_integer() and other.is_integer():  # such as numbers of recipes, of which a neighbour is another one
        return _single(number) == _single(other)
    return math.isclose(number, other, rel_tol=CLOSE)


def _single(number: float) -> float:
    """The number as a 32-bit float, if there is one."""
    try:
        found: float = struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return number
    return found


def _rate(rule: WriteRule, history: Iterable[int], now_us: int) -> Refused | None:
    """Times after `now_us`, from before the clock was set back, count as now."""
    ages_us = [max(0, now_us - t_us) for t_us in history]
    recent = sum(age < MINUTE_US for age in ages_us)
    if recent >= rule.per_minute:
        return Refused("rate", f"{recent} writes in the last minute, {rule.per_minute} are allowed", "Wait a minute")
    wait_s = rule.min_interval_s - min(ages_us, default=MINUTE_US * 1440) / 1e6
    if wait_s > 0:
        reason = f"the last write was less than {rule.min_interval_s:g} s ago"
        return Refused("rate", reason, f"Write again in {math.ceil(wait_s)} s")
    return None


def _step(
    rule: WriteRule, value: WriteValue, current: Mapping[str, CurrentValue], now_us: int
) -> Refused | None:  # fmt: skip
    if rule.max_step is None:
        return None
    present = _number(rule, rule.metric, current, now_us)
    if isinstance(present, Refused):
        return present
    step = abs(float(value) - present)
    if step <= rule.max_step or _close(rule.max_step, step):
        return None
    reason = f"a step of {step:g} from {present:g} is above max_step {rule.max_step:g}"
    return Refused("step", reason, "Write it in smaller steps")


def _interlock(rule: WriteRule, current: Mapping[str, CurrentValue], now_us: int) -> Refused | None:
    if not rule.only_while:
        return None
    condition = parse(rule.only_while)
    values: dict[str, float] = {}
    for metric in sorted(condition.metrics):
        found = _number(rule, metric, current, now_us)
        if isinstance(found, Refused):
            return found
        values[metric] = found
    if condition.holds(values):
        return None
    shown = ", ".join(f"{metric} is {value:g}" for metric, value in values.items())
    return Refused("interlock", f"only while {rule.only_while}, and {shown}", "Wait until the condition holds")


def _number(rule: WriteRule, metric: str, current: Mapping[str, CurrentValue], now_us: int) -> float | Refused:
    """The present value of a metric; Refused unless it is good, fresh and a number."""
    found = current.get(metric)
    if found is None or found.value is None:
        return Refused("stale", f"{metric} has no value", f"See that {metric} is read")
    age_s = abs(now_us - found.t_us) / 1e6  # a time far in the future is as untrustworthy as an old one
    if age_s > rule.max_age_s:
        reason = f"the last value of {metric} is {age_s:.1f} s old, at most {rule.max_age_s:g} s are allowed"
        return Refused("stale", reason, f"See why {metric} is not read, or raise max_age_s")
    if not found.good:
        return Refused("stale", f"the quality of {metric} is not good", f"See why {metric} is not read")
    if isinstance(found.value, str) or not math.isfinite(found.value):
        return Refused("stale", f"{metric} is no number", "Use a metric with numbers in the rule")
    return float(found.value)


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 64:  # Python refuses to print very long integers
        return f"an integer of {value.bit_length()} bits"
    text = repr(value) if isinstance(value, (str, float)) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
