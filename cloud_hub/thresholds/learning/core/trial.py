"""Backtest of current and proposed limits on stored history, against people's feedback. Pure.

The proposed limits are learned from history before the test period. If there is too little, they are tested on the
history they were learned from, which is too favourable: `in_sample` is then set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.thresholds.backtest.core.replay import Episode, Window, replay
from cloud_hub.thresholds.learning.core.trainer import History
from shared.durations import DAY_US
from shared.thresholds import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """People's feedback: `faults` (alarms judged real, missed faults reported) and `normal` (alarms judged false)."""

    faults: tuple[Window, ...] = ()
    normal: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Alarms that limits would have raised: known faults `hit` and `missed`, and alarms known to be `false`."""

    alarms: int
    per_week: float
    hit: int
    missed: int
    false: int
    episodes: tuple[Episode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One series, judged in from_us <= t < to_us. `present` None: no limits are in force. `reason`: why no proposal."""

    device: str
    metric: str
    from_us: int
    to_us: int
    points: int
    present: Tally | None = None
    proposed: Tally | None = None
    in_sample: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Limits to test, or why there are none; `in_sample` when they were learned from the test period."""

    limits: Limits | None = None
    in_sample: bool = False
    reason: str = ""


def proposals(before: Sequence[Limits | str], whole: Sequence[Limits | str]) -> list[Proposal]:
    """The limits learned before the test period; if there was too little history, those learned until its end."""
    return [
        Proposal(limits=early) if not isinstance(early, str)
        else Proposal(reason=late) if isinstance(late, str)
        else Proposal(limits=late, in_sample=True)
        for early, late in zip(before, whole, strict=True)
    ]  # fmt: skip


def run_trial(
    history: History, present: Limits | None, proposal: Proposal, feedback: Feedback, from_us: int, to_us: int
) -> Trial:
    """Replay from_us..to_us with current and with proposed limits."""
    late = history.between(from_us, to_us)
    begin = int(late.t_us[0]) if late.t_us.size else from_us
    weeks = max((to_us - max(from_us, begin)) / (7 * DAY_US), 1 / 168)

    def judged(limits: Limits | None) -> Tally | None:
        return None if limits is None else tally(replay(limits, late.t_us, late.values), feedback, weeks)

    return Trial(
        device=history.device, metric=history.metric, from_us=from_us, to_us=to_us, points=int(late.t_us.size),
        present=judged(present), proposed=judged(proposal.limits), in_sample=proposal.in_sample,
        reason=proposal.reason,
    )  # fmt: skip


def tally(episodes: Sequence[Episode], feedback: Feedback, weeks: float) -> Tally:
    """Count hits, misses and false alarms of the episodes; `weeks` is the length of the test period."""
    hit = sum(any(_meets(one, window) for one in episodes) for window in feedback.faults)
    false = sum(any(_meets(one, window) for window in feedback.normal) for one in episodes)
    return Tally(
        alarms=len(episodes), per_week=len(episodes) / weeks, hit=hit, missed=len(feedback.faults) - hit, false=false,
        episodes=tuple(episodes),
    )  # fmt: skip


def _meets(episode: Episode, window: Window) -> bool:
    """Whether they overlap: an alarm that is active when a fault begins counts as a hit."""
    return episode.start_us <= window.end_us and (episode.end_us is None or episode.end_us >= window.start_us)
