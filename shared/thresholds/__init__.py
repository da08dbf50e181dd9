"""Alarm limits and rules, and their evaluation: live on the device, in backtests on the hub.

Terms are those of ISA-18.2: deadband, on-delay, off-delay, priority. Evaluation uses the time of each sample (`t_us`),
so a replay gives the same alarms as the device. Fitting limits is part of the hub.
"""

from shared.thresholds.judge import JudgeState, Transition, apply_delays, judge
from shared.thresholds.limits import Limits, refusal
from shared.thresholds.rule_kinds import AlarmRules, Expression, Flat, NoData, Rate
from shared.thresholds.schedule import in_force

__all__ = [
    "AlarmRules",
    "Expression",
    "Flat",
    "JudgeState",
    "Limits",
    "NoData",
    "Rate",
    "Transition",
    "apply_delays",
    "in_force",
    "judge",
    "refusal",
]  # fmt: skip
