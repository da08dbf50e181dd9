"""Alarms over REST: what is asked wrongly is refused with the place, and a scope reaches no further than itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators import databases
from simulators.sites import MINE, THEIRS, Sites

from cloud_hub.clock import now_us
from shared.durations import HOUR_US


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    one = Sites(tmp_path, databases.sqlite(tmp_path))
    yield one
    one.close()


def ask(sites: Sites, method: str, path: str, body: Any = None, *, scoped: bool = False, **query: Any) -> Any:
    headers = {"Authorization": f"Bearer {sites.of_a if scoped else sites.whole}"}
    return sites.client.request(method, f"/api/v1/alarms{path}", headers=headers, json=body, params=query)


def window(**more: Any) -> dict[str, Any]:
    return {"reason": "cleaning", "until_us": now_us() + HOUR_US} | more


@pytest.mark.parametrize(
    ("method", "path", "body", "query"),
    [
        ("GET", "", None, {"life": "asleep"}), ("GET", "", None, {"priority": "urgent"}),
        ("GET", "", None, {"verdict": "maybe"}), ("GET", "/report", None, {"days": 0}),
        ("GET", "/report", None, {"days": 93}), ("POST", "/a-press-3/verdict", {"verdict": "maybe"}, {}),
        ("POST", "/a-press-3/shelve", {"for_s": 10, "reason": "x"}, {}),
        ("POST", "/a-press-3/shelve", {"for_s": 8 * 86400, "reason": "x"}, {}),
        ("POST", "/a-press-3/shelve", {"for_s": 600, "reason": ""}, {}),
        ("POST", "/a-press-3/acknowledge", {"comment": "x" * 1001}, {}),
        ("POST", "/suppressions", {"device": MINE, "reason": "x"}, {}),
        ("POST", "/suppressions", {"method": "asleep", "device": MINE, "reason": "x", "until_us": 1 << 61}, {}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(sites: Sites, method: str, path: str, body: Any, query: dict[str, Any]) -> None:
    answer = ask(sites, method, path, body, **query)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text


def test_filters_find_what_they_name(sites: Sites) -> None:
    ask(sites, "POST", f"/a-{MINE}/verdict", {"verdict": "false-alarm", "comment": "backup"})

    def found(**query: Any) -> set[str]:
        return {row["id"] for row in ask(sites, "GET", "", **query).json()}

    everything = found()
    assert len(everything) == 4
    assert found(life="acknowledged") == found(verdict="false-alarm") == {f"a-{MINE}"}
    assert found(life="unacknowledged") == everything - {f"a-{MINE}"}
    assert found(device=THEIRS) == {f"a-{THEIRS}"}
    assert found(priority="low") == found(since_us=now_us() + HOUR_US) == set()
    assert len(found(limit=2)) == 2


def test_a_window_over_a_path_needs_a_scope_that_reaches_it(sites: Sites) -> None:
    assert ask(sites, "POST", "/suppressions", window(path="acme/b"), scoped=True).status_code == 403
    assert ask(sites, "POST", "/suppressions", window(path="acme"), scoped=True).status_code == 403
    theirs = ask(sites, "POST", "/suppressions", window(path="acme/b")).json()
    mine = ask(sites, "POST", "/suppressions", window(path="acme/a/hall-2"), scoped=True)
    assert mine.status_code == 201
    assert ask(sites, "GET", f"/a-{MINE}").json()["life"] == "suppressed"
    assert ask(sites, "GET", f"/a-{THEIRS}").json()["life"] == "suppressed"
    assert ask(sites, "DELETE", f"/suppressions/{theirs['id']}", scoped=True).status_code == 404
    assert theirs["id"] not in ask(sites, "GET", "/suppressions", scoped=True).text
    assert ask(sites, "DELETE", f"/suppressions/{mine.json()['id']}", scoped=True).status_code == 204
    listed = {row["id"] for row in ask(sites, "GET", "/suppressions").json()}
    assert theirs["id"] in listed
    assert mine.json()["id"] not in listed
    assert mine.json()["id"] in ask(sites, "GET", "/suppressions", active=False).text


def test_a_scoped_report_counts_its_own_alone(sites: Sites) -> None:
    assert [ask(sites, "GET", "/report", scoped=scoped).json()["alarms"] for scoped in (False, True)] == [4, 1]
