"""A group is diagnosed once: members get the lead's diagnosis, in the language that is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from simulators.actions import action_service
from simulators.births import born

from cloud_hub.clock import new_id
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, Incident
from cloud_hub.devices import tags
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents import worker
from cloud_hub.incidents.core.messages import preferred_language
from cloud_hub.incidents.desk import open_desk
from cloud_hub.incidents.diagnosis import localized
from cloud_hub.settings import Desk
from shared.protocol.messages import Alarm, Birth

NOW = 1_800_000_000_000_000


class Engine:
    """Agrees with the rules, and counts the questions."""

    name = "counted"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask(self, system: str, user: str, schema: dict[str, Any]) -> str:
        given = json.loads(user.split("\n")[1])
        self.asked.append(given["device"])
        claims = [{"text": "I agree.", "cites": [given["items"][0]["id"]]}]
        return json.dumps({"cause": "made-up", "confidence": 0.9, "claims": claims, "proposals": []})


def fail(db: Database, device: str, path: str, metric: str, about: Any = "", depends_on: str = "") -> str:
    """A device whose metric raises an alarm; the incident's id."""
    alarm = Alarm(
        id=new_id(), metric=metric, kind="high", state="raised", priority="high", t_us=NOW, value=60.0, limit=5.0,
        about=about,
    )  # fmt: skip
    with db.write() as session:
        born(session, Birth(device=device, session="s", epoch="e"), NOW)
        session.get_one(Device, device).assigned_path = path
        if depends_on:
            tags.change(session, session.get_one(Device, device), {"depends_on": depends_on}, NOW, actor="test")
        session.flush()
        incidents.handle_alarm(session, device, alarm, NOW, "")
        return incidents.list_undiagnosed(session, Incident.device == device, 1)[0]


def row(db: Database, number: str) -> tuple[Incident, dict[str, Any], list[str]]:
    with db.read() as session:
        incident = incidents.get(session, number)
        assert incident.diagnosis is not None
        verbs = [action.operation for action in incidents.actions(session, number)]
        return incident, incident.diagnosis, verbs


@pytest.mark.one_database
def test_one_question_for_a_group_and_members_keep_what_rules_propose_for_them(db: Database) -> None:
    lead = fail(db, "press-1", "acme/a/hall-1", "cpu.load")
    member = fail(db, "press-2", "acme/a/hall-1", "line-camera/age_s")
    third = fail(db, "press-3", "acme/a/hall-1", "cpu.load")
    engine = Engine()
    worker.run_once(db, engine, action_service())
    assert engine.asked == ["press-1"]
    assert row(db, lead)[1]["lead"] == ""
    incident, diagnosis, verbs = row(db, member)
    assert incident.page == lead
    assert (diagnosis["cause"], diagnosis["lead"]) == ("made-up", lead)
    assert lead in diagnosis["note"]
    assert verbs == ["restart"], "its own model stalled"
    assert row(db, third)[2] == [], "one look is enough for the group"


@pytest.mark.one_database
def test_a_lead_of_another_site_is_not_shown(db: Database) -> None:
    lead = fail(db, "press-1", "acme/a/hall-1", "cpu.load")
    member = fail(db, "press-2", "acme/b/hall-1", "disk.used")
    with db.write() as session:
        incident = incidents.get(session, member)
        incident.page, incident.leads = lead, False
    engine = Engine()
    worker.run_once(db, engine, action_service())
    assert engine.asked == ["press-1"]
    assert row(db, member)[1]["cause"] == "disk-filling", "by the rules, from its own evidence"


@pytest.mark.one_database
def test_a_diagnosis_is_stored_in_the_hubs_language_and_read_in_another(db: Database) -> None:
    number = fail(db, "press-1", "acme/a", "cpu.load")
    worker.run_once(db, None, action_service(), desk=open_desk(Desk(language="zh")))
    stored = row(db, number)[1]
    assert stored["language"] == "zh"
    assert stored["explanation"].startswith("cpu.load 为 60,高于 5")
    english = localized(stored, "en")
    assert english["explanation"] == "cpu.load is 60, above 5 (rules, no language model)"
    assert list(english["claims"][0]["cites"]) == stored["claims"][0]["cites"]
    assert localized({"cause": "x", "explanation": "old"}, "en") == {"cause": "x", "explanation": "old"}


@pytest.mark.parametrize(
    ("header", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-GB, zh;q=0.5", "en"), ("fr, zh;q=0.1", "zh"), ("de", ""), ("", ""),
     ("zh;q=0", ""), ("zh;q=x, en;q=0.2", "en"), ("*", ""), ("en;q=0.1," * 500 + "zh", "en")],
)  # fmt: skip
def test_accept_language(header: str, language: str) -> None:
    assert preferred_language(header) == language


@pytest.mark.one_database
def test_silent_devices_behind_a_silent_switch_cost_one_question(db: Database) -> None:
    """Of no common site: only the topology groups them, and it is applied before anything is diagnosed."""
    for n in range(4):
        fail(db, f"press-{n}", f"acme/s{n}", "cpu.load", about="no-data", depends_on="switch-3")
    switch = fail(db, "switch-3", "acme/s9", "up", about="no-data")
    engine = Engine()
    worker.run_once(db, engine, action_service())
    assert engine.asked == ["switch-3"]
    assert row(db, switch)[0].leads
    with db.read() as session:
        rows = incidents.list_for_page(session, row(db, switch)[0].page)
        assert len(rows) == 5
        for one in rows:
            assert one.diagnosis is not None
            assert one.leads or one.diagnosis["cause"] == "upstream-failed", "of another site: by rules, and not cited"
        assert not [action for one in rows for action in incidents.actions(session, one.id)]
