"""Who is told what, and when. A core: settings, pages and what was told before go in, changes of rows come out.

One row a channel and page. It wants 'open' or 'resolved'; `due_us` is when to try; once told it waits for the page to
end, to become worse, or (Alertmanager) for the next repetition. A page that ended before it was told is told once, as
resolved; one that somebody acknowledged before is not told at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cloud_hub import hours
from cloud_hub.channels import Alertmanager, Common
from cloud_hub.notify import Page

RANK = {"low": 0, "medium": 1, "high": 2, "critical": 3}
MINUTE_US = 60_000_000
FIRST_S, LIMIT_S = 5.0, 300.0
"""Between two tries: doubling from the first to the limit."""
REFUSED_S = 120.0
"""Before the next try where somebody must act first."""

SHELVED = "nobody is called for it: shelved, or suppressed"

Fields = dict[str, Any]


class Row(Protocol):
    """What this module reads of a row of the table."""

    state: str
    wanted: str
    told: str
    told_priority: str
    due_us: int | None
    since_us: int
    tries: int
    error: str


def wants(settings: Common, page: Page) -> bool:
    """Whether the channel is for this page."""
    below = any(page.path == site or page.path.startswith(f"{site}/") for site in settings.sites)
    return RANK[page.priority] >= RANK[settings.priority] and (below or not settings.sites)


def due_us(settings: Common, at_us: int) -> int:
    """`at_us`, or when the channel's next hours begin."""
    return hours.next_us([hours.hours(text) for text in settings.hours], hours.zone(settings.time_zone), at_us)


def first(settings: Common, page: Page, now_us: int) -> Fields | None:
    """The new row of a page that has none, or None where it is not told."""
    if not wants(settings, page) or page.acknowledged:
        return None
    due = due_us(settings, max(now_us, page.opened_us + int(settings.wait_s * 1e6)))
    if not page.open and due > now_us + int(settings.wait_s * 1e6):
        return None  # it came and went outside of the hours
    return {"wanted": "open" if page.open else "resolved", "due_us": due, "since_us": now_us}


def change(settings: Common, page: Page | None, row: Row, now_us: int) -> Fields:
    """What changes in the row of a page; {} when nothing does."""
    if page is None:  # forgotten, as if it had never been told: should its shelf end, it is told anew
        return {} if row.error == SHELVED else _closed(SHELVED) | {"told": "", "wanted": "open"}
    new: Fields = {"state": "waiting", "due_us": due_us(settings, now_us), "since_us": now_us, "tries": 0, "error": ""}
    if not row.told:
        return _untold(settings, page, row, now_us)
    if page.open and (row.told == "resolved" or RANK[page.priority] > RANK.get(row.told_priority, 0)):
        return {} if row.wanted == "open" and row.state == "waiting" else new | {"wanted": "open"}
    if not page.open and row.told == "open" and row.wanted == "open":
        return new | {"wanted": "resolved"} if settings.resolved else _closed("")
    return {}


def _untold(settings: Common, page: Page, row: Row, now_us: int) -> Fields:
    if row.error == SHELVED:
        again = page.open and not page.acknowledged
        return (
            {"state": "waiting", "due_us": due_us(settings, now_us), "since_us": now_us, "error": ""} if again else {}
        )
    if row.state != "waiting":
        return {}
    if page.acknowledged:
        return _closed("acknowledged before it was told")
    if not page.open and row.wanted == "open":
        held = row.due_us is not None and not row.tries and row.due_us > now_us + int(settings.wait_s * 1e6)
        return _closed("over before the channel's hours") if held else {"wanted": "resolved"}
    return {}


def _closed(why: str) -> Fields:
    return {"state": "closed", "due_us": None, "error": why}


def sent(settings: Common, page: Page, wanted: str, now_us: int) -> Fields:
    """After the channel took it. What stands is said again where the channel forgets."""
    again = settings.resend_s if isinstance(settings, Alertmanager) and wanted == "open" else 0.0
    return {
        "told": wanted, "told_priority": page.priority, "told_us": now_us, "tries": 0, "error": "", "since_us": now_us,
        "state": "told" if wanted == "open" else "closed", "due_us": now_us + int(again * 1e6) if again else None,
    }  # fmt: skip


def failed(settings: Common, row: Row, reason: str, wait_s: float, draw: float, now_us: int) -> Fields:
    """After a try that did not work: again, or given up. `draw` is uniform in 0..1, `wait_s` the least wait."""
    backoff = min(FIRST_S * 2.0 ** min(row.tries, 20), LIMIT_S) * (0.5 + draw / 2)
    due = now_us + int(max(backoff, wait_s) * 1e6)
    if due - row.since_us > settings.give_up_s * 1e6:
        return {"state": "given-up", "due_us": None, "tries": row.tries + 1, "error": reason[:300]}
    return {"state": "waiting", "due_us": due, "tries": row.tries + 1, "error": reason[:300]}


def free(times_us: Sequence[int], per_minute: int, now_us: int) -> bool:
    """Whether one more message may leave, after those at `times_us`."""
    return sum(now_us - MINUTE_US < one <= now_us for one in times_us) < per_minute


def most_urgent(pages: Mapping[str, Page], most: int) -> list[str]:
    """The ids of at most so many pages: what stands before what is over, the worst first, then the oldest."""
    return sorted(pages, key=lambda one: (not pages[one].open, -RANK[pages[one].priority], pages[one].opened_us, one))[
        :most
    ]
