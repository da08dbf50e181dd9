"""Measures the performance of an alarm system after ISA-18.2 clause 16.5 and EEMUA 191. Pure.

More than about 150 alarms a day, one in ten minutes on average, are more than an operator can handle; more than 10 in
ten minutes are a flood. Chattering: three raises of one alarm within a minute. Stale: raised for more
than a day. Fleeting: cleared within ten seconds, before anyone could act.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median

from shared.durations import DAY_US, SECOND_US

EPOCH = date(1970, 1, 1).toordinal()
WINDOW_US = 600 * SECOND_US
FLOOD = 10
CHATTER, CHATTER_US = 3, 60 * SECOND_US
FLEETING_US = 10 * SECOND_US


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRecord:
    """The columns of an alarm that the report reads; `raised_us` is the device's time."""

    device: str
    metric: str
    priority: str
    raised_us: int
    received_us: int
    cleared_us: int | None = None
    acked_us: int | None = None
    verdict: str = ""
    suppressed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offender:
    """An alarm that was raised often, and its `share` of all alarms."""

    device: str
    metric: str
    alarms: int
    share: float
    chattering: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The performance over a period. `alarms` excludes suppressed alarms, which `suppressed` counts.

    `peak` is the highest number in ten minutes, `in_flood` the share of ten-minute spans with more than ten.
    `standing`, `stale` and `unacknowledged` describe the end of the period.
    """

    since_us: int
    until_us: int
    alarms: int
    per_day: float
    per_day_each: dict[str, int]
    pages: int
    suppressed: int
    by_priority: dict[str, int]
    peak: int
    in_flood: float
    top: list[Offender]
    top_share: float
    chattering: int
    fleeting: int
    standing: int
    stale: int
    unacknowledged: int
    ack_median_s: float | None
    real: int
    false_alarms: int


def build_report(
    rows: Sequence[AlarmRecord], standing: Sequence[AlarmRecord], pages: int, since_us: int, until_us: int
) -> Report:
    """Build the report on alarms received from `since_us` until `until_us`; `standing` are those raised at the end.

    Alarms are counted by the time of receipt; only chattering uses the device's times.
    """
    active = [row for row in rows if not row.suppressed]
    spans = Counter((row.received_us - since_us) // WINDOW_US for row in active)
    days = Counter(date.fromordinal(EPOCH + row.received_us // DAY_US).isoformat() for row in active)
    raised: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in active:
        raised[row.device, row.metric].append(row.raised_us)
    chattering = {key for key, times in raised.items() if _chatters(sorted(times))}
    most = sorted(raised.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:10]
    waits = [(row.acked_us - row.received_us) / SECOND_US for row in active if row.acked_us is not None]
    length_us = max(until_us - since_us, 1)
    return Report(
        since_us=since_us, until_us=until_us, alarms=len(active), pages=pages, suppressed=len(rows) - len(active),
        per_day=len(active) * DAY_US / length_us, per_day_each=dict(sorted(days.items())),
        by_priority=dict(Counter(row.priority for row in active)),
        peak=max(spans.values(), default=0),
        in_flood=sum(count > FLOOD for count in spans.values()) / max(1, -(-length_us // WINDOW_US)),
        top=[Offender(device=device, metric=metric, alarms=len(times), share=len(times) / len(active),
                      chattering=(device, metric) in chattering) for (device, metric), times in most],
        top_share=sum(len(times) for _, times in most) / max(1, len(active)),
        chattering=len(chattering),
        fleeting=sum(row.cleared_us is not None and row.cleared_us - row.raised_us < FLEETING_US for row in active),
        standing=len(standing),
        stale=sum(until_us - row.received_us > DAY_US and not row.suppressed for row in standing),
        unacknowledged=sum(row.acked_us is None and not row.suppressed for row in standing),
        ack_median_s=median(waits) if waits else None,
        real=sum(row.verdict == "real" for row in rows),
        false_alarms=sum(row.verdict == "false-alarm" for row in rows),
    )  # fmt: skip


def _chatters(times: Sequence[int]) -> bool:
    return any(late - early <= CHATTER_US for early, late in zip(times, times[CHATTER - 1 :], strict=False))
