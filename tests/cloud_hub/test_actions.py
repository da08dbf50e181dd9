"""Policy and a person's word: what happens by itself, what waits, what is refused."""

from __future__ import annotations

import pytest
from sqlmodel import select

from cloud_hub.actions import desk
from cloud_hub.actions.policy import judge
from cloud_hub.clock import new_id
from cloud_hub.db import Database
from cloud_hub.errors import HubError
from cloud_hub.settings import Actions
from cloud_hub.tables import Action, Command, Device, Incident

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
SETTINGS = Actions(automatic=["diagnose", "restart"], cooldown_s=600, verify_s=30)


@pytest.mark.parametrize(("verb", "automatic", "last_s", "word"), [
    ("restart", ["restart"], None, "allow"),
    ("restart", ["restart"], 599, "ask"),
    ("restart", ["restart"], 600, "allow"),
    ("restart", ["restart"], -5, "ask"),
    ("restart", [], None, "ask"),
    ("capture", ["restart", "diagnose"], None, "ask"),
    ("capture", ["capture"], 1, "ask"),
    ("diagnose", ["diagnose"], 1, "allow"),
    ("diagnose", [], None, "ask"),
    ("erase", ["erase"], None, "refuse"),
    ("", [], None, "refuse"),
])  # fmt: skip
def test_the_policy(verb: str, automatic: list[str], last_s: int | None, word: str) -> None:
    last = None if last_s is None else NOW - last_s * SECOND
    verdict = judge(verb, automatic, last, NOW, 600)
    assert verdict.word == word
    assert verdict.reason


@pytest.fixture
def incident(db: Database) -> Incident:
    row = Incident(id=new_id(), device="press-3", subject="digits", opened_us=NOW, traceparent="")
    with db.write() as session:
        session.add(Device(id="press-3", state="online"))
        session.add(row)
    return row


def propose(db: Database, incident: Incident, verb: str = "restart", now_us: int = NOW) -> Action:
    with db.write() as session:
        return desk.propose(session, session.merge(incident), verb, "digits", "it stalls", now_us, SETTINGS)


def decide(db: Database, action: str, approved: bool) -> Action:
    with db.write() as session:
        return desk.decide(session, action, approved, "anna", NOW)


def step(db: Database, now_us: int = NOW) -> int:
    with db.write() as session:
        return sum(message.topic.endswith("/request") for message in desk.step(session, now_us, SETTINGS))


def state(db: Database, action: Action) -> str:
    with db.read() as session:
        return desk.get(session, action.id).state


def test_the_same_again_too_soon_asks_a_person(db: Database, incident: Incident) -> None:
    first = propose(db, incident)
    assert first.state == "approved"
    assert step(db) == 1
    again = propose(db, incident, now_us=NOW + 60 * SECOND)
    assert (again.state, again.policy) == ("proposed", "the same was done less than 600 s ago")
    assert step(db, NOW + 61 * SECOND) == 0
    assert state(db, again) == "proposed"
    later = propose(db, incident, now_us=NOW + 2000 * SECOND)
    assert later.state == "approved"


def test_a_person_approves(db: Database, incident: Incident) -> None:
    action = propose(db, incident, "capture")
    assert (action.state, step(db)) == ("proposed", 0)
    assert decide(db, action.id, True).state == "approved"
    assert step(db) == 1
    assert state(db, action) == "executing"


def test_a_person_refuses_and_the_incident_is_free_to_end(db: Database, incident: Incident) -> None:
    action = propose(db, incident, "capture")
    assert decide(db, action.id, False).state == "refused"
    assert step(db) == 0
    with db.read() as session:
        assert session.get_one(Incident, incident.id).state == "resolved"
        assert session.exec(select(Command)).all() == []


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_a_decision_is_taken_once(db: Database, incident: Incident, first: bool, second: bool) -> None:
    action = propose(db, incident, "capture")
    decide(db, action.id, first)
    with pytest.raises(HubError) as no:
        decide(db, action.id, second)
    assert no.value.status == 409


def test_an_unknown_action_is_404(db: Database) -> None:
    with pytest.raises(HubError) as no:
        decide(db, "nothing", True)
    assert no.value.status == 404


def test_a_verb_that_no_proposal_may_use_is_refused(db: Database, incident: Incident) -> None:
    action = propose(db, incident, "erase")
    assert (action.state, step(db)) == ("refused", 0)
    with pytest.raises(HubError):
        decide(db, action.id, True)
