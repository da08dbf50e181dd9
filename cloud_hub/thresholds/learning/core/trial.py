"""What present limits and proposed ones would have done on stored history, and what people had said of it. Pure.

The proposed limits are learned from what lies before the time that they are tried on. Where there is too little
before, they are tried on what they learned from, which flatters them: `in_sample` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.thresholds.backtest.core.replay import Episode, Window, replay
from cloud_hub.thresholds.learning.core.trainer import History
from shared.thresholds import Limits
from shared.times import DAY_US


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What people said of a series: stretches of `trouble` (alarms judged real, troubles told) and of `nothing`."""

    faults: tuple[Window, ...] = ()
    normal: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What limits would have raised: of the troubles told `hit` and `missed`, alarms where people said `false`."""

    alarms: int
    per_week: float
    hit: int
    missed: int
    false: int
    episodes: tuple[Episode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One series, judged in from_us <= t < to_us. `present` None: no limits stand there. `reason`: why no proposal."""

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
    """Limits to try, or why there are none; `in_sample` when they were learned from what they are tried on."""

    limits: Limits | None = None
    in_sample: bool = False
    reason: str = ""


def proposals(before: Sequence[Limits | str], whole: Sequence[Limits | str]) -> list[Proposal]:
    """What the history before the trial taught; where that was too little, what it taught until the trial's end."""
    return [
        Proposal(limits=early) if not isinstance(early, str)
        else Proposal(reason=late) if isinstance(late, str)
        else Proposal(limits=late, in_sample=True)
        for early, late in zip(before, whole, strict=True)
    ]  # fmt: skip


def run_trial(
    history: History, present: Limits | None, proposal: Proposal, said: Feedback, from_us: int, to_us: int
) -> Trial:
    """Replay from_us..to_us by both."""
    late = history.between(from_us, to_us)
    begin = int(late.t_us[0]) if late.t_us.size else from_us
    weeks = max((to_us - max(from_us, begin)) / (7 * DAY_US), 1 / 168)

    def judged(limits: Limits | None) -> Tally | None:
        return None if limits is None else tally(replay(limits, late.t_us, late.values), said, weeks)

    return Trial(
        device=history.device, metric=history.metric, from_us=from_us, to_us=to_us, points=int(late.t_us.size),
        present=judged(present), proposed=judged(proposal.limits), in_sample=proposal.in_sample,
        reason=proposal.reason,
    )  # fmt: skip


def tally(episodes: Sequence[Episode], said: Feedback, weeks: float) -> Tally:
    """Count what the episodes are worth; `weeks` is how long was judged."""
    hit = sum(any(_meets(one, window) for one in episodes) for window in said.faults)
    false = sum(any(_meets(one, window) for window in said.normal) for one in episodes)
    return Tally(
        alarms=len(episodes), per_week=len(episodes) / weeks, hit=hit, missed=len(said.faults) - hit, false=false,
        episodes=tuple(episodes),
    )  # fmt: skip


def _meets(episode: Episode, window: Window) -> bool:
    """Whether they share a moment: an alarm that stands when a trouble begins tells of it too."""
    return episode.start_us <= window.end_us and (episode.end_us is None or episode.end_us >= window.start_us)
