"""Groups incidents into pages, the unit of notification. Pure.

People who are notified twice about one problem learn to ignore notifications. So an incident joins the page of an
earlier incident

- of the same device, within ten minutes: a problem of one machine shows in many metrics;
- of the same site, within two minutes: a switch, a power line or a hot aisle affects many machines (a device
  without an asset path shares its site with no other);
- of the same site, within ten minutes, in a flood: more than ten alarms in ten minutes are more than an operator can
  handle (ISA-18.2 clause 16.5, EEMUA 191);
- of the same service of the same site, within two hours: a lasting difference from peers appears on one
  server after the other.

What a failed device explains by the topology is decided afterwards, in `topology`.

A page accepts no more incidents after `page_s`, or after `service_page_s` for those of its service: later ones deserve
another notification.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from shared.durations import SECOND_US

NEARBY = 20
"""How many earlier incidents are considered; in a flood the newest one has the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """The time limits of grouping.

    `device_s`, `site_s` and `service_s` are counted from the last incident of a page. A flood is more than
    `flood_alarms` within `flood_s`. `page_s` is the maximum age of a page, `service_page_s` that for its service (a
    shift).
    """

    device_s: float = 600.0
    site_s: float = 120.0
    flood_alarms: int = 10
    flood_s: float = 600.0
    page_s: float = 3600.0
    service_s: float = 7200.0
    service_page_s: float = 43_200.0


STANDARD = Grouping()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedIncident:
    """An incident when it was opened. `page` is its page, which started at `page_us`.

    `service` is set for alarms of peer comparison, else empty.
    """

    page: str
    device: str
    site: str
    t_us: int
    page_us: int
    service: str = ""


def site_of(path: str) -> str:
    """The site of an asset path: enterprise/site; '' without a path: such a device shares its site with no other."""
    return "/".join(path.split("/")[:2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """The page that an incident joins, and `because` of what, for people to read."""

    page: str
    because: str


def page_of(
    device: str, site: str, now_us: int, opened: Iterable[OpenedIncident], alarms: int, grouping: Grouping = STANDARD,
    service: str = "",
) -> str | None:  # fmt: skip
    """The page that an incident of `device` joins (see `joining`), or None if it starts a page."""
    joined = joining(device, site, now_us, opened, alarms, grouping, service)
    return None if joined is None else joined.page


def joining(
    device: str, site: str, now_us: int, opened: Iterable[OpenedIncident], alarms: int, grouping: Grouping = STANDARD,
    service: str = "",
) -> Joining | None:  # fmt: skip
    """The page that an incident of `device` joins and why, or None if it starts a page.

    `opened` are earlier incidents, those of the device and the site first, then those of its `service`, each the newest
    first. `alarms` is the number of alarms of the site (of the device without a site) within the last `flood_s`, this
    one included.
    """
    flood = alarms > grouping.flood_alarms
    site_s = grouping.flood_s if flood else grouping.site_s
    for incident in opened:
        age_us = now_us - incident.t_us
        young = now_us - incident.page_us <= grouping.page_s * SECOND_US
        if young and incident.device == device and age_us <= grouping.device_s * SECOND_US:
            return Joining(page=incident.page, because=f"same device, within {_minutes(grouping.device_s)}")
        if young and site and incident.site == site and age_us <= site_s * SECOND_US:
            during = f", in a flood of more than {grouping.flood_alarms} alarms" if flood else ""
            because = f"same site ({site}), within {_minutes(site_s)}{during}"
            return Joining(page=incident.page, because=because)
        same_service = (
            bool(service)
            and (incident.service, incident.site) == (service, site)
            and age_us <= grouping.service_s * SECOND_US
        )
        if same_service and now_us - incident.page_us <= grouping.service_page_s * SECOND_US:
            because = f"same service ({service}) of the site, within {_minutes(grouping.service_s)}"
            return Joining(page=incident.page, because=because)
    return None


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} minutes"


def is_silence(metric: str, kind: str, about: str) -> bool:
    """Whether an alarm says that data is missing; `up` is Prometheus' metric for a target that answers."""
    return "no-data" in (kind, about) or (kind == "low" and re.split(r"[./]", metric)[-1] == "up")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmSpan:
    """An alarm that was raised from start_us to end_us.

    Alarms of one device `about` one subject belong to one incident while any of them is raised.
    """

    device: str
    site: str
    about: str
    start_us: int
    end_us: int
    service: str = ""


def count_pages(alarms: Iterable[AlarmSpan], grouping: Grouping = STANDARD) -> int:
    """How many pages these alarms would have been, had each reached the hub when it was raised."""
    return len(group_into_pages(alarms, grouping))


def group_into_pages(alarms: Iterable[AlarmSpan], grouping: Grouping = STANDARD) -> list[list[AlarmSpan]]:
    """The alarms of each page, had each reached the hub when it was raised."""
    pages: list[list[AlarmSpan]] = []
    opened: deque[OpenedIncident] = deque()
    recent: deque[AlarmSpan] = deque()
    open_until: dict[tuple[str, str], tuple[int, int]] = {}
    for alarm in sorted(alarms, key=lambda one: (one.start_us, one.end_us, one.device, one.about)):
        now_us, subject = alarm.start_us, (alarm.device, alarm.about)
        recent.append(alarm)
        while recent[0].start_us <= now_us - grouping.flood_s * SECOND_US:
            recent.popleft()
        end_us, number = open_until.get(subject, (-1, 0))
        if end_us < now_us:
            page = _page(alarm, opened, recent, grouping)
            number = len(pages) if page is None else int(page)
            if page is None:
                pages.append([])
            begun_us = next((one.page_us for one in opened if one.page == page), now_us)
            one = OpenedIncident(page=str(number), device=alarm.device, site=alarm.site, t_us=now_us, page_us=begun_us,
                         service=alarm.service)  # fmt: skip
            opened.appendleft(one)
        open_until[subject] = max(alarm.end_us, end_us), number
        pages[number].append(alarm)
    return pages


def _page(
    alarm: AlarmSpan, opened: deque[OpenedIncident], recent: Iterable[AlarmSpan], grouping: Grouping
) -> str | None:
    now_us = alarm.start_us
    while opened and opened[-1].t_us < now_us - max(grouping.page_s, grouping.service_s) * SECOND_US:
        opened.pop()
    since_us = now_us - grouping.page_s * SECOND_US
    same_place = [
        incident
        for incident in opened
        if alarm.device == incident.device or (alarm.site and alarm.site == incident.site)
    ]
    near = [incident for incident in same_place if incident.t_us >= since_us]
    same_service = [
        incident
        for incident in opened
        if alarm.service and (incident.service, incident.site) == (alarm.service, alarm.site)
    ]
    alarms_here = sum(
        incident.site == alarm.site if alarm.site else incident.device == alarm.device for incident in recent
    )
    seen = near[:NEARBY] + same_service[:NEARBY]
    return page_of(alarm.device, alarm.site, now_us, seen, alarms_here, grouping, alarm.service)
