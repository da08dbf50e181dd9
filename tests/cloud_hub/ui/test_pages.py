"""The pages: what they show, to whom, in which language; and that a text of a device is never markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from simulators import databases
from simulators.pages_world import BLIND, HOT, Pages, WebApp, csrf, incident_of, open_pages, sign_in
from simulators.sites import CANARY, MINE, Sites
from sqlmodel import select

from cloud_hub.api.dependencies import Hub
from cloud_hub.database.tables import Action, AlarmRow, Device, Incident, IncidentEvidence, TwinRow
from cloud_hub.runtime.worker import WorkerStatus
from cloud_hub.ui.page_route import POLICY


def addresses(pages: Pages) -> list[str]:
    """Every page that there is."""
    return [
        "/ui/", "/ui/devices", f"/ui/devices/{HOT}", f"/ui/devices/{BLIND}", "/ui/devices/spare-press", "/ui/alarms",
        "/ui/alarms?show=all", "/ui/alarms?show=suppressed", "/ui/alarm?id=a-hot", "/ui/incidents",
        "/ui/incidents?show=all", f"/ui/incidents/{incident_of(pages, HOT)}",
        f"/ui/incidents/{incident_of(pages, BLIND)}",
    ]  # fmt: skip


class Outline(HTMLParser):
    """What in a page could run, or leads elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.forms: list[dict[str, Any]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.bad += [f"{tag} {name}" for name in values if name.startswith(("on", "hx-on", "style"))]
        if (tag == "script" and not values.get("src")) or tag in {"style", "iframe", "object", "base", "img"}:
            self.bad.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "action", "hx-get", "hx-post"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "form":
            self.forms.append({"method": values.get("method", "get"), "csrf": False})
        if tag == "input" and values.get("name") == "csrf" and values.get("value"):
            self.forms[-1]["csrf"] = True


def test_every_page_is_strict_and_relative(pages: Pages) -> None:
    client = pages.client("anna")
    for address in ["/ui/login", *addresses(pages)]:
        answer = client.get(address)
        assert answer.status_code == 200, (address, answer.text)
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        outline = Outline(answer.text)
        assert outline.bad == [], address
        assert [link for link in outline.links if link.startswith(("/", "http", "//", "javascript:", "data:"))] == []
        assert len(set(outline.ids)) == len(outline.ids), address
        assert all(form["csrf"] for form in outline.forms if form["method"] == "post")


def test_the_policy_allows_no_inline_script_and_no_eval() -> None:
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY


def test_the_root_leads_to_the_pages_and_unknown_rest_stays_json(pages: Pages) -> None:
    client = pages.client("anna")
    for address in ("/", "/ui"):
        assert client.get(address, follow_redirects=False).headers["location"] == "ui/"
    missing = client.get("/api/v1/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
    page = client.get("/ui/nothing/at/all")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert 'href="../../"' in page.text


def test_pages_are_not_in_openapi(pages: Pages) -> None:
    paths = pages.client().get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path.startswith("/ui") or path == "/"]


def test_the_overview_tells_what_is_wrong(pages: Pages) -> None:
    text = pages.client("anna").get("/ui/").text
    for wanted in (HOT, BLIND, "a fan has failed", "sensor-005", "3 not acknowledged", "3 offline, 1 never connected"):
        assert wanted in text


def test_the_overview_names_workers_that_fail(pages: Pages) -> None:
    bad = WorkerStatus(name="rollups", state="failing", failing_since_us=1, error="disk <full>")
    before = pages.hub.workers
    object.__setattr__(pages.hub, "workers", lambda: [bad])
    try:
        text = pages.client("anna").get("/ui/").text
    finally:
        object.__setattr__(pages.hub, "workers", before)
    assert "disk &lt;full&gt;" in text
    assert "1 workers fail" in text


def test_a_scope_hides_the_hub_itself(pages: Pages) -> None:
    assert "messages/s" in pages.client("anna").get("/ui/").text
    assert "messages/s" not in pages.client("bob").get("/ui/").text


def test_devices_are_filtered_by_the_query_language_and_by_text(pages: Pages) -> None:
    client = pages.client("anna")

    def found(**query: str) -> list[str]:
        ids: list[str] = client.get("/ui/devices.json", params=query).json()["id"]
        return ids

    assert len(found()) == 43
    assert found(where="tags.kind = 'press'") == [HOT]
    assert found(text="HALL-1 kind=press") == [HOT]
    assert found(where="tags.line = 1", text="sensor-001") == ["sensor-001"]
    assert found(text="no such words") == []
    row = client.get("/ui/devices.json", params={"text": HOT}).json()
    assert (row["state"], row["alarms"], row["priority"], row["total"]) == (["online"], [1], ["critical"], 1)
    states = dict(zip(*(client.get("/ui/devices.json").json()[name] for name in ("id", "state")), strict=True))
    assert (states["spare-press"], states["sensor-005"]) == ("never", "offline")
    wrong = client.get("/ui/devices.json", params={"where": "tags.kind ="})
    assert wrong.status_code == 400
    assert "The query cannot be read" in wrong.text


def test_a_device_shows_what_it_should_be_and_is(pages: Pages) -> None:
    text = pages.client("anna").get(f"/ui/devices/{HOT}").text
    for wanted in ("settings.period_s", "refused", "must be at least 5", "fan 2: 0 rpm", "the fan was replaced in May",
                   "automatic", "1 not taken over"):  # fmt: skip
        assert wanted in text


def test_a_series_comes_with_its_limits_and_alarms(pages: Pages) -> None:
    client = pages.client("anna")
    found = client.get(f"/ui/devices/{HOT}/series.json", params={"metric": "temperature", "span": "1h"}).json()
    assert len(found["t"]) == len(found["mean"]) == len(found["limit_high"]) > 700
    assert (found["resolution"], found["limit_low"][-1], found["limit_high"][-1]) == ("raw", 40.0, 80.0)
    assert [(one["id"], one["priority"], one["end_s"]) for one in found["alarms"]] == [("a-hot", "critical", None)]
    wide = client.get(f"/ui/devices/{HOT}/series.json", params={"metric": "cpu.load", "span": "30d"}).json()
    assert wide["resolution"] in {"15m", "1h"}
    assert any(low < mean < high for low, mean, high in zip(wide["low"], wide["mean"], wide["high"], strict=True))


def test_an_incident_shows_the_diagnosis_with_citations_that_exist(pages: Pages) -> None:
    text = pages.client("anna").get(f"/ui/incidents/{incident_of(pages, HOT)}").text
    cited = re.findall(r'class="cite" href="#(k[0-9a-f]{16})"', text)
    assert cited
    assert set(cited) <= set(Outline(text).ids)
    assert "a fan has failed" in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_pages_speak_the_language_of_the_browser(pages: Pages, language: str) -> None:
    client = pages.client("anna")
    text = client.get("/ui/alarms", headers={"accept-language": f"{language};q=0.9, fr"}).text
    assert f'<html lang="{language}"' in text
    assert ("确认" in text) == (language == "zh")


def test_an_htmx_request_is_answered_with_a_part_of_the_page(pages: Pages) -> None:
    client = pages.client("anna")
    for address in addresses(pages):
        if address.startswith("/ui/devices") and address == "/ui/devices":
            continue
        part = client.get(address, headers={"hx-request": "true"})
        assert part.status_code == 200
        assert "<html" not in part.text, address


# -- hostile text --------------------------------------------------------------------------------------

CORPUS = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "{{ 7 * 7 }}",
    "javascript:alert(1)", "</textarea><svg onload=alert(1)>", "<a href=//evil.example>x</a>", "\u202eevil",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A plant in which every text that a device supplies is one of the corpus."""
    from simulators.pages_world import fill

    with open_pages(tmp_path_factory.mktemp("hostile")) as one:
        fill(one, 3)
        with one.db.write() as session:
            poison(session)
        yield one


def poison(session: Any) -> None:
    evil = " ".join(CORPUS)
    for device in session.exec(select(Device)):
        device.profile = device.version = device.clock = device.conflict = device.asset_path = evil
        device.tags = {evil[:60]: evil}
        device.metrics = [{"name": "temperature", "unit": evil}, "no object"]
        device.limits_without_source = [evil]
        session.add(device)
    for alarm in session.exec(select(AlarmRow)):
        alarm.metric = alarm.metric if alarm.id == "a-hot" else evil
        alarm.kind = alarm.about = alarm.comment = alarm.cleared_by = alarm.acked_by = evil
        session.add(alarm)
    for incident in session.exec(select(Incident)):
        incident.subject = incident.joined_because = evil
        incident.diagnosis = {"cause": evil, "confidence": 1, "explanation": evil, "engine": evil, "note": evil,
                              "claims": [{"text": evil, "cites": ["E1", evil]}], "also": [evil]}  # fmt: skip
        session.add(incident)
    for action in session.exec(select(Action)):
        action.type = action.reason = action.detail = action.outcome = action.proposer = action.policy = evil
        action.parameters = {evil: evil}
        session.add(action)
    for kept in session.exec(select(IncidentEvidence)):
        items = [dict(item, summary=evil, kind=item["kind"]) for item in kept.evidence["items"]]
        kept.evidence = kept.evidence | {"items": items}
        session.add(kept)
    for twin in session.exec(select(TwinRow)):
        twin.state = {"desired": {evil[:80]: evil}, "reported": {evil[:80]: [evil], "x": {"y": evil}}}
        session.add(twin)


def test_a_text_of_a_device_is_never_markup(hostile: Pages) -> None:
    client = hostile.client("anna")
    seen = 0
    for address in addresses(hostile):
        answer = client.get(address)
        assert answer.status_code == 200, answer.text
        outline = Outline(answer.text)
        assert outline.bad == [], address
        assert not [link for link in outline.links if link.startswith(("javascript:", "//", "http"))]
        assert "<script>alert" not in answer.text
        seen += "&lt;script&gt;alert(1)" in answer.text
    assert seen >= 8


def test_an_incident_without_a_diagnosis_has_a_page(pages: Pages) -> None:
    number = incident_of(pages, HOT)
    with pages.db.write() as session:
        row = session.get_one(Incident, number)
        kept, row.diagnosis = row.diagnosis, None
        session.add(row)
    text = pages.client("victor").get(f"/ui/incidents/{number}").text
    assert "The hub has not diagnosed it yet." in text
    assert HOT in pages.client("victor").get("/ui/incidents").text
    with pages.db.write() as session:
        row = session.get_one(Incident, number)
        row.diagnosis = kept
        session.add(row)


def test_without_escaping_the_corpus_is_noticed() -> None:
    assert all(Outline(f"<p title='{text}'>{text}</p>").bad for text in (CORPUS[0], CORPUS[1], CORPUS[5]))


def test_json_of_hostile_devices_is_no_html(hostile: Pages) -> None:
    answer = hostile.client("anna").get("/ui/devices.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


# -- scopes ------------------------------------------------------------------------------------------


def test_no_page_shows_another_site(tmp_path: Path) -> None:
    """The canary stands in everything of the other sites."""
    from fastapi.testclient import TestClient

    sites = Sites(tmp_path, databases.sqlite(tmp_path))
    hub: Hub = sites.app.state.hub
    client = TestClient(WebApp(hub), base_url="http://hub")
    client.headers["accept"] = "text/html"
    assert sign_in(client, sites.of_a).status_code == 303
    try:
        theirs = [sites.ids[name] for name in sites.ids if name not in {MINE, "it"}]
        lists = ["/ui/", "/ui/devices.json", "/ui/alarms?show=all", "/ui/incidents?show=all", "/ui/incidents"]
        mine = [f"/ui/devices/{MINE}", f"/ui/incidents/{sites.ids[MINE]['incident_id']}", f"/ui/alarm?id=a-{MINE}"]
        for address in [*lists, *mine]:
            answer = client.get(address)
            assert answer.status_code == 200, (address, answer.text)
            assert CANARY not in answer.text, address
        for ids in theirs:
            for address in (f"/ui/devices/{ids['device']}", f"/ui/incidents/{ids['incident_id']}",
                            f"/ui/alarm?id={ids['alarm_id']}", f"/ui/devices/{ids['device']}/series.json?metric=m",
                            f"/ui/live?topics=device&device={ids['device']}&metric=m"):  # fmt: skip
                answer = client.get(address)
                assert answer.status_code == 404, address
                assert CANARY not in answer.text.replace(ids["device"], "")
        token = csrf(client.get("/ui/"))
        for ids in theirs:
            for address in (f"/ui/alarm/acknowledge?id={ids['alarm_id']}",
                            f"/ui/incidents/{ids['incident_id']}/acknowledge"):  # fmt: skip
                assert client.post(address, data={"csrf": token}).status_code == 404
    finally:
        client.close()
        sites.close()
