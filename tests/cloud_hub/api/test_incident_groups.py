"""Groups of incidents, evidence, notes, cases and the shift report over REST."""

from __future__ import annotations

from simulators.births import born
from simulators.rest_world import NOW, World, problem
from sqlmodel import select

from cloud_hub.database.tables import Case, Incident
from cloud_hub.incidents import service as incidents
from shared.protocol.messages import Alarm, Birth

DOCUMENTED = {"id", "device", "subject", "state", "opened_us", "resolved_us", "diagnosis", "diagnosed_us", "page",
              "traceparent", "service", "resolved_by", "resolution"}  # fmt: skip


def other_incident(world: World) -> str:
    with world.db.write() as session:
        born(session, Birth(device="lathe-7", session="s", epoch="e"), NOW)
        alarm = Alarm(id="a7", metric="cpu.load", kind="high", state="raised", priority="high", t_us=NOW, value=99,
                      limit=95)  # fmt: skip
        incidents.handle_alarm(session, "lathe-7", alarm, NOW, "")
        return str(session.exec(select(Incident.id).where(Incident.device == "lathe-7")).one())


def test_a_list_shows_a_group_as_one_incident_and_its_members_on_request(world: World) -> None:
    first, other = world.ids["incident_id"], other_incident(world)
    path = f"/api/v1/incidents/{first}"
    problem(world.ask("POST", f"{path}/merge", json={"incidents": [other], "reason": " "}), 422)
    merged = world.ask("POST", f"{path}/merge", json={"incidents": [other], "reason": "same pump"}).json()
    assert merged["id"] == first
    listed = world.ask("GET", "/api/v1/incidents").json()
    assert [row["id"] for row in listed] == [first]
    assert listed[0].keys() >= DOCUMENTED
    assert listed[0]["group"] == {"members": 2, "unresolved": 2, "devices": 2, "state": "open"}
    assert {row["id"] for row in world.ask("GET", "/api/v1/incidents?members=true").json()} == {first, other}
    assert [row["id"] for row in world.ask("GET", "/api/v1/incidents?device=lathe-7").json()] == [other]
    view = world.ask("GET", f"/api/v1/incidents/{other}").json()
    assert view["group"]["members"] == 2
    assert [(row["id"], row["leads"]) for row in view["members"]] == [(first, True), (other, False)]
    assert view["members"][1]["joined_because"] == "merged by anna: same pump"
    after = world.ask("GET", f"{path}/members?after={first}&limit=1").json()
    assert [row["id"] for row in after] == [other]
    assert world.ask("POST", f"{path}/acknowledge").json()["state"] == "acknowledged"
    assert world.ask("GET", f"/api/v1/incidents/{other}").json()["incident"]["state"] == "acknowledged"
    assert world.ask("POST", f"/api/v1/incidents/{other}/split", json={"reason": "no"}).json()["page"] == other
    problem(world.ask("POST", f"/api/v1/incidents/{other}/split", json={"reason": "no"}), 409)


def test_evidence_notes_cases_and_the_report_are_read_over_rest(world: World) -> None:
    first = world.ids["incident_id"]
    note = world.ask("POST", "/api/v1/devices/press-3/notes", json={"text": "the fan\nwas replaced"})
    assert note.status_code == 201
    found = world.ask("GET", f"/api/v1/incidents/{first}/evidence?fresh=true").json()
    assert found["gathered_us"] is None
    assert found["items"][0]["id"] == "E1"
    assert "note by anna: the fan was replaced" in [item["summary"] for item in found["items"]]
    assert world.ask("DELETE", f"/api/v1/devices/press-3/notes/{note.json()['id']}").status_code == 204
    assert world.ask("GET", "/api/v1/devices/press-3/notes").json() == []
    problem(world.ask("POST", "/api/v1/devices/press-3/notes", json={"text": "x" * 1001}), 422)
    with world.db.write() as session:
        session.add(Case(id="c1", page="c1", device="press-3", subject="temp", cause="overheating", opened_us=1,
                         resolved_us=2, outcome="by-itself"))  # fmt: skip
    assert [row["id"] for row in world.ask("GET", "/api/v1/cases?cause=overheating").json()] == ["c1"]
    assert world.ask("GET", "/api/v1/cases/c1").json()["items"] == []
    report = "/api/v1/shift-report"
    assert world.ask("GET", report).json()["counts"]["standing"] >= 1
    assert world.ask("GET", f"{report}?format=text").text.startswith("Shift report, ")
    assert world.ask("GET", f"{report}?format=svg").headers["content-type"] == "image/svg+xml"
    problem(world.ask("GET", f"{report}?from_us=5&to_us=5"), 422)
    problem(world.ask("GET", f"{report}?format=pdf"), 422)
