"""What metrics may do, and the one judge of it: the device runs it live, the hub backtests with it.

Words of ISA-18.2: deadband, on-delay, off-delay, priority. Time is the sample's own (`t_us`), so a replay judges as the
device did. Fitting limits is the hub's alone.
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
