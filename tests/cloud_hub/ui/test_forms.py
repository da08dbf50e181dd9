"""What an operator does on the pages: as REST does it, with the same roles, audit entries and messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from simulators.pages_world import BLIND, HOT, Pages, csrf, fill, incident_of, open_pages, web_app
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.database.tables import Action, AlarmRow, Incident


@pytest.fixture
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with open_pages(tmp_path_factory.mktemp("forms")) as one:
        fill(one, 2)
        yield one


def alarm(pages: Pages, number: str = "a-hot") -> AlarmRow:
    with pages.db.read() as session:
        return session.get_one(AlarmRow, number)


def send(client: Any, address: str, **fields: str) -> Any:
    return client.post(address, data={"csrf": csrf(client.get("/ui/"))} | fields, follow_redirects=False)


def posts() -> list[str]:
    """The paths of all forms."""
    from cloud_hub.ui.web import ROUTERS

    found = [route.path for router in ROUTERS for route in router.routes if "POST" in route.methods]  # type: ignore[attr-defined]
    assert web_app()
    return found


def test_an_alarm_is_acknowledged_with_audit_and_message(plant: Pages) -> None:
    answer = send(plant.client("anna"), "/ui/alarm/acknowledge?id=a-hot", comment="seen")
    assert (answer.status_code, answer.headers["location"]) == (303, "../alarm?id=a-hot")
    row = alarm(plant)
    assert (row.acked_by, row.comment) == ("anna", "seen")
    assert [message.topic.rpartition("/")[2] for message in plant.published] == ["life"]
    with plant.db.read() as session:
        assert [entry.actor for entry in trail.rows(session, kind="alarm.acknowledged")] == ["anna"]


def test_htmx_gets_the_changed_row(plant: Pages) -> None:
    client = plant.client("anna")
    form = {"csrf": csrf(client.get("/ui/"))}
    answer = client.post("/ui/alarm/acknowledge?id=a-hot", data=form, headers={"hx-request": "true"})
    assert answer.text.strip().startswith("<tr id=")
    assert "acknowledged" in answer.text
    assert f'href="devices/{HOT}"' in answer.text


@pytest.mark.parametrize("verdict", ["real", "false-alarm"])
def test_an_alarm_is_judged(plant: Pages, verdict: str) -> None:
    assert send(plant.client("anna"), "/ui/alarm/verdict?id=a-hot", verdict=verdict).status_code == 303
    row = alarm(plant)
    assert (row.verdict, row.verdict_by, row.acked_by) == (verdict, "anna", "anna")
    assert send(plant.client("anna"), "/ui/alarm/verdict?id=a-hot", verdict="perhaps").status_code == 422


def test_an_alarm_is_shelved_with_a_reason_and_unshelved(plant: Pages) -> None:
    client = plant.client("anna")
    assert send(client, "/ui/alarm/shelve?id=a-hot", hours="8", reason="").status_code == 422
    assert send(client, "/ui/alarm/shelve?id=a-hot", hours="999", reason="x").status_code == 422
    assert send(client, "/ui/alarm/shelve?id=a-hot", hours="8", reason="sensor <ordered>").status_code == 303
    assert alarm(plant).suppressed == "shelved"
    assert "sensor &lt;ordered&gt;" in client.get("/ui/alarm?id=a-hot").text
    assert HOT in client.get("/ui/alarms?show=suppressed").text
    assert send(client, "/ui/alarm/unshelve?id=a-hot").status_code == 303
    assert "alarms" in plant.notified


def test_an_incident_is_acknowledged_and_resolved(plant: Pages) -> None:
    client, number = plant.client("anna"), incident_of(plant, HOT)
    assert send(client, f"/ui/incidents/{number}/acknowledge").headers["location"] == f"../{number}"
    with plant.db.read() as session:
        assert session.get_one(Incident, number).state == "acknowledged"
    assert send(client, f"/ui/incidents/{number}/resolve", reason="").status_code == 422
    assert send(client, f"/ui/incidents/{number}/resolve", reason="fan replaced").status_code == 303
    with plant.db.read() as session:
        assert session.get_one(Incident, number).resolution == "fan replaced"


def test_a_proposed_action_is_decided(plant: Pages) -> None:
    client, number = plant.client("anna"), incident_of(plant, BLIND)
    with plant.db.read() as session:
        action = session.exec(select(Action).where(Action.incident == number, Action.state == "proposed")).one().id
    address = f"/ui/incidents/{number}/actions/{action}"
    assert send(client, address, decision="perhaps").status_code == 422
    assert send(client, address, decision="approve").status_code == 303
    with plant.db.read() as session:
        assert session.get_one(Action, action).state == "approved"
        assert [row.actor for row in trail.rows(session, kind="action.approved", device=BLIND)] == ["anna"]
    assert "actions" in plant.notified
    assert send(client, address, decision="approve").status_code == 409


def test_a_note_is_left_on_a_device(plant: Pages) -> None:
    client = plant.client("anna")
    answer = send(client, f"/ui/devices/{HOT}/notes", text="bearing <loud>")
    assert (answer.status_code, answer.headers["location"]) == (303, f"../{HOT}")
    assert "bearing &lt;loud&gt;" in client.get(f"/ui/devices/{HOT}").text
    assert send(client, f"/ui/devices/{HOT}/notes", text="").status_code == 422
    assert send(client, "/ui/devices/nobody/notes", text="x").status_code == 404


def test_a_viewer_sees_no_buttons_and_may_do_nothing(plant: Pages) -> None:
    client, number = plant.client("victor"), incident_of(plant, HOT)
    for address in ("/ui/alarm?id=a-hot", "/ui/alarms", f"/ui/incidents/{number}", f"/ui/devices/{HOT}"):
        text = client.get(address).text
        assert 'action="alarm/' not in text
        assert "/acknowledge" not in text
        assert "/notes" not in text
    for path in posts():
        if path in {"/ui/login", "/ui/logout", "/ui/preferences"}:
            continue
        address = path.format(incident_id=number, action_id="x", device=HOT) + "?id=a-hot"
        assert send(client, address).status_code == 403, path
    assert alarm(plant).acked_us is None


def test_every_form_needs_its_csrf_token(plant: Pages) -> None:
    client, other = plant.client("anna"), plant.client("anna")
    foreign = csrf(other.get("/ui/"))
    for path in posts():
        address = path.format(incident_id=incident_of(plant, HOT), action_id="x", device=HOT) + "?id=a-hot"
        for form in ({}, {"csrf": ""}, {"csrf": "guess"}, {"csrf": foreign}):
            assert client.post(address, data=form | {"comment": "x"}).status_code == 403, path
    good = {"csrf": csrf(client.get("/ui/"))}
    address = "/ui/alarm/acknowledge?id=a-hot"
    assert client.post(address, data=good, headers={"sec-fetch-site": "same-site"}).status_code == 403
    assert client.post(address, json=good).status_code == 422
    assert alarm(plant).acked_us is None


def test_a_form_that_is_too_large_is_refused_before_it_is_read(plant: Pages) -> None:
    answer = plant.client("anna").post("/ui/alarm/acknowledge?id=a-hot", data={"csrf": "x" * 20_000})
    assert answer.status_code == 413


def test_a_form_without_a_session_is_refused_before_it_is_read(plant: Pages) -> None:
    assert plant.client().post("/ui/alarm/acknowledge?id=a-hot", data={"csrf": "x"}).status_code == 401


def test_an_alarm_id_may_hold_anything(plant: Pages) -> None:
    strange = "../x?y=1&z#ü/ <b>"
    with plant.db.write() as session:
        session.add(AlarmRow(**alarm(plant).model_dump() | {"id": strange}))
    client = plant.client("anna")
    assert client.get("/ui/alarm", params={"id": strange}).status_code == 200
    answer = client.post("/ui/alarm/acknowledge", params={"id": strange}, data={"csrf": csrf(client.get("/ui/"))})
    assert answer.status_code == 200
    assert alarm(plant, strange).acked_by == "anna"


def test_a_refusal_for_htmx_is_shown_beside_the_page(plant: Pages) -> None:
    client = plant.client("victor")
    form = {"csrf": csrf(client.get("/ui/"))}
    answer = client.post("/ui/alarm/acknowledge?id=a-hot", data=form, headers={"hx-request": "true"})
    assert (answer.status_code, answer.headers["hx-retarget"]) == (403, "#problems")
    assert "<html" not in answer.text
