"""Decides what is notified and when. Pure: settings, pages and stored rows go in, changes of rows come out.

There is one row for each channel and page, like Alertmanager's for each receiver and group:

- A new page is notified after `group_wait_s`.
- Additions to a page are notified `group_interval_s` after the last message, or after `group_wait_s` if they have a
  higher priority than everything before.
- The same problem (device and subject, at the same priority) is notified once, until the page is resolved.
- After an acknowledgement, only alarms of a higher priority than the acknowledged ones are notified.
- The end of a page is notified once it has been resolved for `group_interval_s`, longer each time that it reopened. A
  page that ended before it was notified is notified once, as resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from cloud_hub.notifications import RANK, Page, PageIncident
from cloud_hub.settings import week_hours
from cloud_hub.settings.channels import Alertmanager, Common
from shared.durations import MINUTE_US, SECOND_US

FIRST_S, LIMIT_S = 5.0, 300.0
"""The backoff between two attempts: doubling from the first to the limit."""
REFUSED_S = 120.0
"""The wait before the next attempt where an operator must act first."""
MAX_RESOLVE_WAIT_S = 3600.0
"""The longest wait before a page that reopens again and again is notified as resolved."""

SHELVED = "nobody is called for it: shelved, or suppressed"
ACKNOWLEDGED = "acknowledged before it was sent"
REMOVED = "the device was removed before it was sent"
HELD = "resolved before the channel's hours"
GONE = "no longer relevant for this channel"

Fields = dict[str, Any]


class NotificationState(Protocol):
    """The columns of a notification row that this module reads."""

    state: str
    due_status: str
    sent_status: str
    sent_priority: str
    sent_us: int | None
    due_us: int | None
    due_priority: str
    since_us: int
    tries: int
    error: str
    notified: dict[str, Any]
    messages: int
    times_resolved: int


# -- which pages -----------------------------------------------------------------------------------


def for_channel(settings: Common, page: Page) -> Page | None:
    """The page limited to the incidents below the channel's sites; None if there are none."""
    if not settings.sites:
        return page
    mine = tuple(one for one in page.incidents if _below(one.path, settings.sites))
    return replace(page, incidents=mine) if mine else None


def _below(path: str, sites: Iterable[str]) -> bool:
    return any(path == site or path.startswith(f"{site}/") for site in sites)


def unnotified_incidents(settings: Common, page: Page, row: NotificationState | None) -> list[PageIncident]:
    """The incidents to notify: neither notified before nor covered by an acknowledgement."""
    again = row is not None and page.open and _starts_over(row)
    known: Mapping[str, Any] = {} if row is None or again else row.notified
    seen = max((one.rank(acknowledged=True) for one in page.incidents if one.open), default=-1)
    least = max(seen + 1, RANK[settings.priority])
    return [
        one for one in page.incidents
        if one.rank(acknowledged=False) >= max(least, known.get(one.key, -1) + 1) and (one.open or not again)
    ]  # fmt: skip


def _starts_over(row: NotificationState) -> bool:
    return row.state != "given-up" and (row.sent_status == "resolved" or row.error == SHELVED)


# -- when ------------------------------------------------------------------------------------------


def next_due_us(settings: Common, at_us: int) -> int:
    """`at_us`, or the start of the channel's next hours."""
    return week_hours.next_us(
        [week_hours.parse_hours(text) for text in settings.hours], week_hours.parse_time_zone(settings.time_zone), at_us
    )


def _us(seconds: float) -> int:
    return int(seconds * SECOND_US)


def _calm_us(settings: Common, times: int) -> int:
    """How long a page must be resolved before that is notified: doubled for each earlier time, up to an hour."""
    return _us(
        min(
            settings.group_interval_s * 2.0 ** min(max(times, 0), 20),
            max(MAX_RESOLVE_WAIT_S, settings.group_interval_s),
        )
    )


def _next_message_us(settings: Common, page: Page, row: NotificationState, rank: int, now_us: int) -> int:
    """When additions to a page are notified."""
    soon_us = now_us + _us(settings.group_wait_s)
    if row.sent_us is None:
        return next_due_us(settings, max(now_us, page.opened_us + _us(settings.group_wait_s)))
    fresh = row.error == SHELVED or (row.sent_status == "resolved" and row.times_resolved < 2)
    if fresh or rank > RANK.get(row.sent_priority, -1):
        return next_due_us(settings, soon_us)
    wait_us = _calm_us(settings, row.times_resolved - 1 if row.sent_status == "resolved" else 0)
    return next_due_us(settings, max(soon_us, row.sent_us + wait_us))


def _resolved_message_us(settings: Common, page: Page, row: NotificationState, now_us: int) -> int:
    """When the end of a page is notified: at a multiple of the interval, so that several ends share a message."""
    calm_us, interval_us = _calm_us(settings, row.times_resolved), _us(settings.group_interval_s)
    at_us = max(now_us, (page.resolved_us or now_us) + calm_us)
    return next_due_us(settings, -(-at_us // interval_us) * interval_us if interval_us else at_us)


def _repeat_us(settings: Common, now_us: int) -> int | None:
    """When an open page is notified again although nothing is new; None for never."""
    repeat_s = settings.resend_s if isinstance(settings, Alertmanager) else settings.repeat_interval_s
    return next_due_us(settings, now_us + _us(repeat_s)) if repeat_s else None


# -- changes of rows -------------------------------------------------------------------------------


def initial_state(settings: Common, page: Page, now_us: int) -> Fields | None:
    """The fields of a new row for a page without one, or None if it is not notified."""
    found = [] if page.suppressed or page.removed else unnotified_incidents(settings, page, None)
    if not found:
        return None
    wait_us = _us(settings.group_wait_s)
    due = next_due_us(settings, max(now_us, page.opened_us + wait_us))
    if not page.open and due > now_us + wait_us:
        return None  # opened and resolved outside the hours
    return {"due_status": "open" if page.open else "resolved", "due_us": due, "since_us": now_us,
            "due_priority": page.highest}  # fmt: skip


def next_state(settings: Common, page: Page | None, row: NotificationState, now_us: int) -> Fields:
    """The fields to change in the row of a page; {} for none."""
    if page is None:
        return {} if row.state == "closed" else _closed(GONE)
    if page.suppressed and page.open:
        return {} if row.error == SHELVED else _closed(SHELVED) | {"due_status": "open"}
    if not page.open:
        return _resolved(settings, page, row, now_us)
    keys = {one.key for one in page.incidents}
    kept = {key: rank for key, rank in row.notified.items() if key in keys}  # a shelved incident is new afterwards
    dropped: Fields = {} if len(kept) == len(row.notified) else {"notified": kept}
    return dropped or _open(settings, page, row, now_us)


def _waiting(status: str, due: int, priority: str, now_us: int) -> Fields:
    return {"state": "waiting", "due_status": status, "due_us": due, "due_priority": priority, "since_us": now_us,
            "tries": 0, "error": ""}  # fmt: skip


def _closed(reason: str) -> Fields:
    return {"state": "closed", "due_us": None, "error": reason}


def _open(settings: Common, page: Page, row: NotificationState, now_us: int) -> Fields:
    found = unnotified_incidents(settings, page, row)
    if not found:
        return _nothing_new(settings, page, row, now_us)
    rank = max(one.rank(acknowledged=False) for one in found)
    due = _next_message_us(settings, page, row, rank, now_us)
    if (row.state, row.due_status) == ("waiting", "open"):
        if row.tries or rank <= RANK.get(row.due_priority, -1):
            return {}
        return {"due_us": min(due, row.due_us or due), "due_priority": _priority_name(rank)}
    return _waiting("open", due, _priority_name(rank), now_us)


def _priority_name(rank: int) -> str:
    return next(name for name, number in RANK.items() if number == rank)


def _nothing_new(settings: Common, page: Page, row: NotificationState, now_us: int) -> Fields:
    due_us = _repeat_us(settings, now_us)
    sent: Fields = {"state": "notified", "due_status": "open", "tries": 0, "error": "", "due_us": due_us}
    acknowledged = page.acknowledged and not isinstance(settings, Alertmanager)  # it drops alerts that are not resent
    if row.state == "notified":
        return {"due_us": None} if acknowledged and row.due_us is not None else {}
    if row.state != "waiting":
        return {}
    if row.sent_status != "open":
        return _closed(ACKNOWLEDGED)
    if row.due_status == "resolved":  # resolved for a moment only
        return sent | ({"due_us": None} if acknowledged else {})
    return sent | {"due_us": None} if acknowledged or not due_us else {}


def _resolved(settings: Common, page: Page, row: NotificationState, now_us: int) -> Fields:
    if row.sent_status == "open":
        if row.due_status == "resolved":
            return {}
        if not settings.resolved:
            return _closed("") | {"sent_status": "resolved", "due_status": "resolved"}
        return _waiting("resolved", _resolved_message_us(settings, page, row, now_us), page.highest, now_us)
    if row.state == "given-up" or page.suppressed:
        return {}
    if page.removed or not unnotified_incidents(settings, page, row):
        return {} if row.state != "waiting" else _closed(REMOVED if page.removed else ACKNOWLEDGED)
    if next_due_us(settings, now_us) > now_us + _us(settings.group_wait_s) and not row.tries:
        return _closed(HELD) | {"notified": _notified(page)}
    if row.state == "waiting":
        return {} if row.due_status == "resolved" else {"due_status": "resolved"}
    due = _next_message_us(settings, page, row, -1, now_us)
    return _waiting("resolved", due, page.highest, now_us)


def _notified(page: Page) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for one in page.incidents:
        ranks[one.key] = max(ranks.get(one.key, -1), one.rank())
    return ranks


def after_success(settings: Common, page: Page, row: NotificationState, status: str, now_us: int) -> Fields:
    """The fields to change after a successful message."""
    highest = max((row.sent_priority, page.highest), key=lambda name: RANK.get(name, -1))
    return {
        "sent_status": status, "sent_priority": highest, "sent_us": now_us, "tries": 0, "error": "", "since_us": now_us,
        "state": "notified" if status == "open" else "closed", "notified": _notified(page),
        "messages": row.messages + 1, "times_resolved": row.times_resolved + (status == "resolved"),
        "due_us": _repeat_us(settings, now_us) if status == "open" else None,
    }  # fmt: skip


def after_failure(
    settings: Common, page: Page, row: NotificationState, reason: str, wait_s: float, draw: float, now_us: int
) -> Fields:  # fmt: skip
    """The fields to change after a failed attempt: retry, or give up.

    `draw` is uniform in 0..1, `wait_s` the minimum wait.
    """
    backoff = min(FIRST_S * 2.0 ** min(row.tries, 20), LIMIT_S) * (0.5 + draw / 2)
    due = now_us + int(max(backoff, wait_s) * 1e6)
    if due - row.since_us > settings.give_up_s * 1e6:
        return {"state": "given-up", "due_us": None, "tries": row.tries + 1, "error": reason[:300],
                "notified": _notified(page)}  # fmt: skip
    return {"state": "waiting", "due_us": due, "tries": row.tries + 1, "error": reason[:300]}


# -- how many messages -----------------------------------------------------------------------------

SentMessage = tuple[int, int]
"""When a message was sent, and the highest priority of its open pages; -1 for none."""


def rate_allows(sent: Sequence[SentMessage], per_minute: int, now_us: int) -> bool:
    """Whether the rate limit allows one more message after these."""
    return sum(now_us - MINUTE_US < at <= now_us for at, _ in sent) < per_minute


def burst_threshold(settings: Common, sent: Sequence[SentMessage], now_us: int) -> int | None:
    """The rank that a message must exceed after `burst` messages within `group_interval_s`; None for no threshold."""
    recent = [rank for at, rank in sent if now_us - _us(settings.group_interval_s) < at <= now_us]
    return max(recent) if settings.burst and len(recent) >= settings.burst else None


def rank(pages: Iterable[Page]) -> int:
    """The rank of the highest priority of the open pages; -1 for none."""
    return max((RANK[page.priority] for page in pages if page.open), default=-1)


def most_urgent(pages: Mapping[str, Page], most: int) -> list[str]:
    """The ids of at most `most` pages: open before resolved, then by priority, then the oldest."""
    return sorted(pages, key=lambda one: (not pages[one].open, -RANK[pages[one].priority], pages[one].opened_us, one))[
        :most
    ]
