"""Renders pages as text, in English and Chinese. Pure; nothing is escaped here: each channel does that itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Literal

from cloud_hub.notifications import Page, PageAlarm

Language = Literal["en", "zh"]
ALARMS = 10
"""The maximum number of alarms, and of devices, in a message."""
NAMED = 3
"""The maximum number of devices in a line of a message about several pages."""
PAGES = 20
"""The maximum number of pages in a message."""

_CATALOGUE: dict[str, dict[str, str]] = {
    "en": {
        "critical": "critical", "high": "high", "medium": "medium", "low": "low", "resolved": "resolved",
        "site": "Site", "since": "Since", "until": "Until", "alarm": "Alarm", "diagnosis": "Diagnosis",
        "incident": "Incident", "devices": "Devices", "more": "and {0} more", "limit": "limit {0}",
        "joined": "New",
        "several": "{0} incidents: {1} open, {2} resolved", "cleared": "cleared", "test": "A test: nothing happened",
    },
    "zh": {
        "critical": "紧急", "high": "高", "medium": "中", "low": "低", "resolved": "已恢复",
        "site": "位置", "since": "开始", "until": "结束", "alarm": "告警", "diagnosis": "诊断",
        "incident": "事件", "devices": "设备", "more": "另有 {0} 项", "limit": "限值 {0}",
        "joined": "新增",
        "several": "{0} 个事件:{1} 个未恢复,{2} 个已恢复", "cleared": "已清除", "test": "测试消息:没有异常",
    },
}  # fmt: skip


def translate(language: Language, key: str, *values: object) -> str:
    """The phrase for a key, with its values filled in."""
    return _CATALOGUE[language][key].format(*values)


def title(pages: Sequence[Page], language: Language) -> str:
    """The title: state, device and subject of one page, or the number of pages."""
    if len(pages) > 1:
        still = sum(page.open for page in pages)
        return translate(language, "several", len(pages), still, len(pages) - still)
    (page,) = pages
    state = translate(language, page.priority if page.open else "resolved")
    more = f" (+{len(page.devices) - 1})" if len(page.devices) > 1 else ""
    return f"[{state}] {page.device}{more} {page.subject}"


def lines(pages: Sequence[Page], language: Language) -> list[tuple[str, str]]:
    """(label, text) of each line below the title."""
    if len(pages) == 1:
        return _one(pages[0], language)
    shown = [
        (format_time(page.opened_us), title([page], language) + _devices(page, language)) for page in pages[:PAGES]
    ]
    left = len(pages) - len(shown)
    return [*shown, *([("", translate(language, "more", left))] if left else [])]


def _one(page: Page, language: Language) -> list[tuple[str, str]]:
    rows = [("site", page.path), ("since", format_time(page.opened_us))]
    if page.resolved_us is not None:
        rows.append(
            ("until", f"{format_time(page.resolved_us)} ({format_duration(page.resolved_us - page.opened_us)})")
        )
    if page.joined:
        rows.append(("joined", names(page.joined, ALARMS, language)))
    if len(page.devices) > 1:
        rows.append(("devices", names(page.devices, ALARMS, language)))
    alarms = sorted(page.alarms, key=lambda alarm: alarm.device not in page.joined)
    rows += [("alarm", alarm_text(alarm, language)) for alarm in alarms[:ALARMS]]
    if len(alarms) > ALARMS:
        rows.append(("alarm", translate(language, "more", len(alarms) - ALARMS)))
    rows += [("diagnosis", page.diagnosis), ("incident", page.id)]
    return [(translate(language, key), text) for key, text in rows if text]


def _devices(page: Page, language: Language) -> str:
    """The devices of the page if there are several; empty for one, which the title names."""
    return f" ({names(page.devices, NAMED, language)})" if len(page.devices) > 1 else ""


def names(devices: Sequence[str], most: int, language: Language) -> str:
    """At most `most` devices, and the number of the others."""
    left = len(devices) - most
    return ", ".join(devices[:most]) + (f" {translate(language, 'more', left)}" if left > 0 else "")


def alarm_text(alarm: PageAlarm, language: Language) -> str:
    """One alarm: metric, value, limit, and whether it has cleared."""
    kind = alarm.kind if alarm.kind == "no-data" else alarm.about or alarm.kind
    text = (
        f"{alarm.device} {alarm.metric} {kind} {alarm.value:.6g} ({translate(language, 'limit', f'{alarm.limit:.6g}')})"
    )
    return f"{text}, {translate(language, 'cleared')}" if alarm.cleared_us is not None else text


def format_time(t_us: int) -> str:
    """A UTC time to the second."""
    return datetime.fromtimestamp(t_us / 1e6, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def format_duration(us: int) -> str:
    """A time span in its two largest units."""
    seconds = max(us, 0) // 1_000_000
    days, hours, minutes = seconds // 86400, seconds % 86400 // 3600, seconds % 3600 // 60
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {seconds % 60}s"
