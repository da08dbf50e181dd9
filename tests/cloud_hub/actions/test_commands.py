"""Commands under the default policy: what happens by itself, what waits, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from simulators.actions import action_service, propose_command
from sqlmodel import select

from cloud_hub.actions import service, worker
from cloud_hub.clock import new_id
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, AlarmRow, Command, Device, Incident
from cloud_hub.errors import HubError
from cloud_hub.settings import Actions
from cloud_hub.twins import service as twins
from shared.protocol.codec import encode

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
SETTINGS = Actions(automatic=["diagnose", "restart"], cooldown_s=600, verify_s=30)
SERVICE = action_service(SETTINGS)


@pytest.fixture
def incident(db: Database) -> Incident:
    row = Incident(id=new_id(), device="press-3", subject="digits", opened_us=NOW, traceparent="")
    with db.write() as session:
        session.add(Device(id="press-3", state="online"))
        session.add(row)
    report(db, {"models": {"digits": {"state": "running", "starts": 1}}})
    alarm(db, "digits/age_s", incident=row.id)
    return row


def report(db: Database, reported: Any) -> None:
    with db.write() as session:
        body = encode({"state": {"reported": reported}})
        twins.handle_request(session, "press-3", "", "update", body, NOW, actor="press-3", max_bytes=32768)


def alarm(db: Database, metric: str, **change: Any) -> None:
    row: dict[str, Any] = {
        "id": new_id(), "device": "press-3", "metric": metric, "kind": "high", "priority": "high", "state": "raised",
        "value": 9.0, "limit": 2.0, "raised_us": NOW, "received_us": NOW,
    }  # fmt: skip
    with db.write() as session:
        session.add(AlarmRow(**(row | change)))


def propose(
    db: Database, incident: Incident, verb: str = "restart", now_us: int = NOW, target: str = "digits"
) -> Action:  # fmt: skip
    with db.write() as session:
        return propose_command(SERVICE, session, session.merge(incident), verb, target, now_us)


def decide(db: Database, action: str, approved: bool) -> Action:
    with db.write() as session:
        if approved:
            return SERVICE.approve(session, action, "anna", "operator", NOW)
        return SERVICE.refuse(session, action, "anna", NOW)


def step(db: Database, now_us: int = NOW) -> int:
    messages = worker.run_once(db, SERVICE, now_us).messages
    return sum(message.topic.endswith("/request") for message in messages)


def state(db: Database, action: Action) -> str:
    with db.read() as session:
        return service.get(session, action.id).state


def test_the_same_again_too_soon_asks_a_person(db: Database, incident: Incident) -> None:
    first = propose(db, incident)
    assert first.state == "approved"
    assert step(db) == 1
    again = propose(db, incident, now_us=NOW + 60 * SECOND)
    assert (again.state, again.policy) == ("proposed", "the device had a restart less than 600 s ago")
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


def test_a_person_refuses_and_nothing_is_sent(db: Database, incident: Incident) -> None:
    action = propose(db, incident, "capture")
    assert decide(db, action.id, False).state == "refused"
    assert step(db) == 0
    with db.read() as session:
        assert session.get_one(Incident, incident.id).state == "open"  # its alarm stands
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


# -- restarts without a person ---------------------------------------------------------------------


@pytest.mark.parametrize("made_up", ["m{n}/label", "s{n}/score"])
def test_a_device_that_makes_up_models_and_alarms_is_not_restarted_again_and_again(
    db: Database, incident: Incident, made_up: str
) -> None:
    sent = 0
    for n in range(40):
        alarm(db, made_up.format(n=n), incident=incident.id)
        propose(db, incident, now_us=NOW + n * 20 * SECOND, target=made_up.format(n=n).partition("/")[0])
        sent += step(db, NOW + n * 20 * SECOND)
    assert sent == 0


def test_a_device_whose_models_all_stall_gets_as_many_restarts_a_day_as_are_allowed(
    db: Database, incident: Incident
) -> None:
    names = [f"m{n}" for n in range(40)]
    report(db, {"models": {name: {"state": "running", "starts": 1} for name in names}})
    sent = []
    for n, name in enumerate(names):
        now_us = NOW + n * 1200 * SECOND  # well beyond the cooldown
        alarm(db, f"{name}/age_s", incident=incident.id)
        propose(db, incident, now_us=now_us, target=name)
        sent.append(step(db, now_us))
    assert sum(sent) == SETTINGS.per_day
    assert sent[: SETTINGS.per_day] == [1] * SETTINGS.per_day


def test_the_cooldown_is_the_devices_and_not_the_targets(db: Database, incident: Incident) -> None:
    report(db, {"models": {"digits": {}, "faces": {}}})
    alarm(db, "faces/age_s", incident=incident.id)
    first, second = propose(db, incident), propose(db, incident, target="faces")
    assert (first.state, second.state) == ("approved", "proposed")


@pytest.mark.parametrize("change", [
    {"state": "cleared"}, {"suppressed": "shelved"}, {"kind": "low"}, {"about": "anomaly"}, {"device": "press-4"},
    {"metric": "digits/score"}, {"metric": "xdigits/age_s"},
], ids=str)  # fmt: skip
def test_only_a_standing_alarm_of_the_models_age_lets_a_restart_happen_by_itself(
    db: Database, incident: Incident, change: dict[str, str]
) -> None:
    with db.write() as session:
        for row in session.exec(select(AlarmRow)):
            session.delete(row)
    alarm(db, change.get("metric", "digits/age_s"), **{k: v for k, v in change.items() if k != "metric"})
    assert propose(db, incident).state == "proposed"


@pytest.mark.parametrize("reported", [{}, {"models": "evil"}, {"models": {"digits": "evil"}}, {"models": []}], ids=str)
def test_a_model_that_the_twin_does_not_report_asks_a_person(db: Database, incident: Incident, reported: Any) -> None:
    report(db, {"models": None})
    report(db, reported)
    action = propose(db, incident)
    assert (action.state, action.policy) == ("proposed", "the twin reports no such model")


def test_an_automatic_restart_is_dropped_when_the_alarm_clears_before_it_is_sent(
    db: Database, incident: Incident
) -> None:
    action = propose(db, incident)
    with db.write() as session:
        session.exec(select(AlarmRow)).one().state = "cleared"
    assert step(db) == 0
    with db.read() as session:
        row = session.get_one(Action, action.id)
        assert (row.state, session.get_one(Incident, incident.id).state) == ("refused", "resolved")
    assert "no longer called for" in row.outcome


@pytest.mark.parametrize("after", [
    {"models": "evil"}, {"models": {"digits": "evil"}}, {"models": {"digits": {"starts": "evil", "state": []}}},
    {"models": {"digits": {"starts": 10**15, "state": ["running"]}}}, {"models": {"digits": {"starts": True}}},
], ids=str)  # fmt: skip
def test_what_a_device_reports_after_a_restart_may_be_anything(db: Database, incident: Incident, after: Any) -> None:
    """It counts as not shown, and the next device's action goes on."""
    action = propose(db, incident)
    assert step(db) == 1
    with db.write() as session:
        command = session.exec(select(Command)).one()
        command.state, command.done_us = "succeeded", NOW
    report(db, after)
    step(db, NOW + SECOND)
    assert state(db, action) == "executed"
    step(db, NOW + 40 * SECOND)
    assert state(db, action) == "failed"
