"""Compares fixed limits with learned thresholds: runs of a condition, pages, and common episodes. Pure.

Both sides are counted alike. Pages are those that the hub would have sent (`incidents.core.grouping`). An episode
combines one device's alarms of both sides that overlap, or follow each other within the grouping time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cloud_hub.incidents.core import grouping
from cloud_hub.incidents.core.grouping import AlarmSpan
from cloud_hub.prometheus.core import naming
from cloud_hub.prometheus.core.promql import Sign
from cloud_hub.prometheus.core.series import Labels, Rule, Series

Side = Literal["fixed", "ours"]
_HOLDS: dict[str, Callable[[Any, float], Any]] = {
    ">": np.greater, "<": np.less, ">=": np.greater_equal, "<=": np.less_equal, "==": np.equal, "!=": np.not_equal,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedAlarm:
    """One alarm of one side: its device, its cause, start and end (UTC microseconds)."""

    side: Side
    device: str
    what: str
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmGroup:
    """Alarms of one device that belong together, of either side or both."""

    device: str
    start_us: int
    end_us: int
    fixed: list[RaisedAlarm]
    ours: list[RaisedAlarm]


def device_of(labels: Labels) -> str:
    """The device of a series: its instance, or all labels except the metric's name."""
    if "instance" in labels:
        return labels["instance"]
    left = {key: value for key, value in labels.items() if key not in {"__name__", "alertname", "alertstate"}}
    return ",".join(f"{key}={value}" for key, value in sorted(left.items())) or "(all)"


def alert_device(labels: Labels, rule: Rule) -> str:
    """The device of an alert, without the labels that the rule added."""
    return device_of({key: value for key, value in labels.items() if rule.labels.get(key) != value})


def runs(t_us: npt.NDArray[np.int64], held: npt.NDArray[np.bool_], step_s: int, for_s: float) -> list[tuple[int, int]]:
    """(start, end) of each time that `held` lasted at least `for_s`; a missing step ends it, as in Prometheus.

    `t_us` are the existing steps, ascending. The start is when the alarm is raised: `for_s` after the condition began.
    """
    times = t_us[held]
    if not times.size:
        return []
    step_us = step_s * 1_000_000
    breaks = np.flatnonzero(np.diff(times) > step_us * 3 // 2)
    firsts = times[np.concatenate([[0], breaks + 1])]
    lasts = times[np.concatenate([breaks, [times.size - 1]])]
    wait_us = int(for_s * 1_000_000)
    return [
        (int(first) + wait_us, int(last) + step_us)
        for first, last in zip(firsts, lasts, strict=True)
        if last - first >= wait_us
    ]


def crossings(series: Series, sign: Sign, number: float, step_s: int, for_s: float) -> list[tuple[int, int]]:
    """The (start, end) of each time that a series was beyond a fixed limit for at least `for_s`; NaN never is."""
    with np.errstate(invalid="ignore"):
        held = _HOLDS[sign](series.values, number) & ~np.isnan(series.values)
    return runs(series.t_us, held, step_s, for_s)


def group_alarms(alarms: Iterable[RaisedAlarm], gap_us: int) -> list[AlarmGroup]:
    """Group the alarms of each device that overlap or start within `gap_us` of the end of the group; by time."""
    groups: list[list[RaisedAlarm]] = []
    ends: dict[str, tuple[int, list[RaisedAlarm]]] = {}
    for alarm in sorted(alarms, key=lambda one: (one.start_us, one.end_us, one.side, one.what)):
        until, group = ends.get(alarm.device, (-1, []))
        if not group or alarm.start_us > until + gap_us:
            until, group = alarm.end_us, []
            groups.append(group)
        group.append(alarm)
        ends[alarm.device] = max(until, alarm.end_us), group
    return [_together(group) for group in groups]


def _together(group: Sequence[RaisedAlarm]) -> AlarmGroup:
    return AlarmGroup(
        device=group[0].device,
        start_us=group[0].start_us,
        end_us=max(one.end_us for one in group),
        fixed=[one for one in group if one.side == "fixed"],
        ours=[one for one in group if one.side == "ours"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both sides over the same time: counts, and every episode with the sides that raised it."""

    alarms: dict[Side, int]
    pages: dict[Side, int]
    both: int
    only: dict[Side, int]
    episodes: list[AlarmGroup]


def compare(alarms: Iterable[RaisedAlarm], from_us: int, gap_us: int) -> Comparison:
    """Count the alarms raised from `from_us` on; the time before is for training, and neither side is judged there."""
    judged = [one for one in alarms if one.start_us >= from_us]
    sides: tuple[Side, Side] = ("fixed", "ours")
    mine = {side: [one for one in judged if one.side == side] for side in sides}
    episodes = group_alarms(judged, gap_us)
    return Comparison(
        alarms={side: len(mine[side]) for side in sides},
        pages={side: grouping.count_pages(map(_stood, mine[side])) for side in sides},
        both=sum(bool(one.fixed and one.ours) for one in episodes),
        only={
            "fixed": sum(not one.ours for one in episodes),
            "ours": sum(not one.fixed for one in episodes),
        },
        episodes=episodes,
    )


def _stood(alarm: RaisedAlarm) -> AlarmSpan:
    """The alarm as of a Prometheus that writes to the hub: hosts are devices, all of the same site."""
    host = naming.host({"instance": alarm.device})
    return AlarmSpan(device=host, site="", about=alarm.device, start_us=alarm.start_us, end_us=alarm.end_us)
