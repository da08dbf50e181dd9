"""Reads periods such as "in the last 3 hours", "yesterday" or "最近3小时" out of a question."""

from __future__ import annotations

import re

from shared.durations import DAY_US, HOUR_US, MINUTE_US, WEEK_US

LONGEST_US = 366 * DAY_US
_UNITS = {
    "minute": MINUTE_US, "min": MINUTE_US, "hour": HOUR_US, "h": HOUR_US, "day": DAY_US, "d": DAY_US, "week": WEEK_US,
    "shift": 12 * HOUR_US, "month": 30 * DAY_US, "分钟": MINUTE_US, "小时": HOUR_US, "天": DAY_US, "日": DAY_US,
    "周": WEEK_US, "星期": WEEK_US, "班": 12 * HOUR_US, "个月": 30 * DAY_US,
}  # fmt: skip
_LAST = re.compile(r"\b(?:last|past|previous)\s+(?:(\d{1,4})\s*)?(minute|min|hour|day|week|shift|month|h|d)s?\b")
_LAST_ZH = re.compile(r"(?:最近|过去|近)\s*(?:(\d{1,4})\s*)?(分钟|小时|个月|星期|天|日|周|班)")
_WORDS = {
    "today": DAY_US, "yesterday": 2 * DAY_US, "tonight": 12 * HOUR_US, "this week": WEEK_US,
    "this morning": 12 * HOUR_US, "今天": DAY_US, "昨天": 2 * DAY_US, "本周": WEEK_US, "这周": WEEK_US,
}  # fmt: skip


def period_us(question: str) -> int | None:
    """The length of the period before now that a question names, in microseconds; None if it names none.

    "today" and "yesterday" are the last 24 and 48 hours, as nobody tells the hub the asker's time zone.
    """
    text = question.lower()
    if match := _LAST.search(text) or _LAST_ZH.search(text):
        return min(max(int(match[1] or 1), 1) * _UNITS[match[2]], LONGEST_US)
    return next((length for word, length in _WORDS.items() if word in text), None)
