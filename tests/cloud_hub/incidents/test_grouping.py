"""Which incidents are one page: properties over any course of incidents, each shown to catch a seeded bug."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cloud_hub.incidents.core.grouping import Grouping, OpenedIncident, page_of, site_of
from shared.durations import SECOND_US

S = 1_000_000
FIXED = settings(max_examples=300, deadline=None, derandomize=True, database=None)
RULE = Grouping(device_s=60, site_s=20, flood_alarms=3, flood_s=60, page_s=180)
COURSE = st.lists(
    st.tuples(st.sampled_from([1, 5, 21, 30, 61, 200]), st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 3)),
    max_size=40,
)
"""Seconds since the one before, device, and how many alarms it brings. a, b and c are of one site."""
SITE = {"a": "x/1", "b": "x/1", "c": "x/1", "d": "x/2"}


class Pager:
    """Incidents and pages in memory, as the hub keeps them in its database: alarms and incidents in order of time."""

    def __init__(self, grouping: Grouping) -> None:
        self._grouping = grouping
        self._alarms: dict[str, deque[int]] = {}
        self._opened: deque[OpenedIncident] = deque()

    def alarm(self, site: str, now_us: int) -> None:
        """An alarm was raised; told before its incident."""
        recent = self._alarms.setdefault(site, deque())
        recent.append(now_us)
        while recent[0] <= now_us - self._grouping.flood_s * SECOND_US:
            recent.popleft()

    def incident(self, incident: str, device: str, site: str, now_us: int) -> str:
        """An incident was opened: its page; its own id when a person must be called."""
        while self._opened and self._opened[-1].t_us < now_us - self._grouping.page_s * SECOND_US:
            self._opened.pop()
        alarms = len(self._alarms.get(site, ()))
        page = page_of(device, site, now_us, self._opened, alarms, self._grouping) or incident
        page_us = next((one.page_us for one in self._opened if one.page == page), now_us)
        self._opened.appendleft(OpenedIncident(page=page, device=device, site=site, t_us=now_us, page_us=page_us))
        return page


Make = Callable[[Grouping], Pager]


def check(make: Make, course: list[tuple[int, str, int]]) -> None:
    pager, now = make(RULE), 1_000 * S
    known: list[tuple[str, str, str, int]] = []
    alarms: list[tuple[int, str]] = []
    for n, (step, device, count) in enumerate(course):
        now, site = now + step * S, SITE[device]
        for _ in range(count):
            pager.alarm(site, now)
            alarms.append((now, site))
        page = pager.incident(f"i{n}", device, site, now)
        recent = sum(t > now - 60 * S and where == site for t, where in alarms)
        first = {one[1]: one[3] for one in reversed(known)}
        may = [one for one in known if now - first[one[1]] <= 180 * S and now - one[3] <= 60 * S]
        own = [one for one in may if one[2] == device]
        flood = [one for one in may if SITE[one[2]] == site and (recent > 3 or now - one[3] <= 20 * S)]
        assert page in ({one[1] for one in own + flood} or {f"i{n}"})
        known.append((f"i{n}", page, device, now))


@FIXED
@given(COURSE)
def test_an_incident_joins_a_page_of_its_device_or_of_its_sites_flood_and_no_other(course: Any) -> None:
    check(Pager, course)


class Forever(Pager):
    """A page takes in whatever comes."""

    def __init__(self, grouping: Grouping) -> None:
        super().__init__(Grouping(device_s=60, site_s=20, flood_alarms=3, flood_s=60, page_s=10_000))


class EachAlone(Pager):
    def incident(self, incident: str, device: str, site: str, now_us: int) -> str:
        return incident


class OneHub(Pager):
    """Sites are all the same to it."""

    def incident(self, incident: str, device: str, site: str, now_us: int) -> str:
        return super().incident(incident, device, "", now_us)

    def alarm(self, site: str, now_us: int) -> None:
        super().alarm("", now_us)


@pytest.mark.parametrize("bug", [Forever, EachAlone, OneHub])
def test_the_checker_catches(bug: Make) -> None:
    @settings(FIXED, max_examples=3000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(COURSE)
    def run(course: Any) -> None:
        check(bug, course)

    with pytest.raises(AssertionError):
        run()


def test_a_site_is_the_first_two_names_of_a_path() -> None:
    assert [site_of(path) for path in ("acme/a/hall-2/line", "acme/a", "acme", "")] == ["acme/a", "acme/a", "acme", ""]


HOUR = 3600 * SECOND_US


@pytest.mark.parametrize(
    ("service", "site", "hours", "begun", "page"),
    [
        ("web", "acme/a", 2, 2, "p"),
        ("web", "acme/a", 2.01, 2.01, None),
        ("web", "acme/a", 1, 12, "p"),
        ("web", "acme/a", 1, 12.01, None),
        ("db", "acme/a", 1, 1, None),
        ("", "acme/a", 1, 1, None),
        ("web", "acme/b", 1, 1, None),
    ],
    ids=[
        "within two hours",
        "later",
        "within a shift",
        "after a shift",
        "another service",
        "no service",
        "another site",
    ],
)
def test_a_service_of_a_site_is_one_page_for_two_hours_from_its_last_incident_and_a_shift_at_most(
    service: str, site: str, hours: float, begun: float, page: str | None
) -> None:
    now = 100 * HOUR
    last = OpenedIncident(page="p", device="web-1", site="acme/a", t_us=now - int(hours * HOUR),
                  page_us=now - int(begun * HOUR), service="web")  # fmt: skip
    assert page_of("web-2", site, now, [last], 1, service=service) == page
    assert page_of("web-2", "acme/a", now, [replace(last, service="")], 1, service="") is None
