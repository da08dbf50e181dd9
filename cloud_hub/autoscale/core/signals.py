"""Signals: what one is, and when its reading counts. Pure.

A reading counts if it is a finite number of at least 0, in the unit that its rule states, and fresh. Any other reading
is unknown: it is never treated as zero, and a target without known demand is held.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from shared.durations import SECOND_US

Kind = Literal["load", "backlog"]


class SignalRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one signal is turned into instances.

    A `load` (requests a second, busy slots, tokens a second) needs value / (per_instance * target) instances. A
    `backlog` (waiting requests, jobs) of which one instance finishes `per_instance` a second is cleared within
    `clear_s`: it is added to the load named `adds_to`, or counts alone. A reading older than `fresh_s` seconds, or in
    another unit, is unknown. With `required` false an unknown reading is left out, where another one is known; with
    true it prevents a scale-in.
    """

    name: str
    per_instance: float
    kind: Kind = "load"
    unit: str = ""
    target: float = 0.7
    fresh_s: float = 120.0
    clear_s: float = 60.0
    adds_to: str = ""
    required: bool = True

    def problem(self) -> str:
        """What is wrong with this rule, or ''."""
        for name in ("per_instance", "target", "fresh_s", "clear_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                return f"signal {self.name}: {name} must be a number above 0, not {value}"
        if self.adds_to and self.kind != "backlog":
            return f"signal {self.name}: adds_to is for a backlog only"
        return ""


class Reading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of a signal, and when it was measured (UTC microseconds). `value` is None where none was found."""

    signal: str
    value: float | None
    t_us: int
    unit: str = ""


def unknown_because(rule: SignalRule, reading: Reading | None, now_us: int) -> str:
    """Why a reading does not count, or ''. One from the future is as wrong as a stale one."""
    if reading is None or reading.value is None:
        return "no reading"
    if not math.isfinite(reading.value):
        return f"{reading.value} is no finite number"
    if reading.value < 0:
        return f"{reading.value:g} is negative"
    if reading.unit != rule.unit:
        return f"its unit is '{reading.unit}', not '{rule.unit}'"
    age_s = (now_us - reading.t_us) / SECOND_US
    return "" if abs(age_s) <= rule.fresh_s else f"it is {age_s:.0f} s old, more than {rule.fresh_s:g} s"
