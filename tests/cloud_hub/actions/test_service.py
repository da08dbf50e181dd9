"""Who may decide, what a key does, and what attacks come to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators import databases
from simulators.actions import action_service
from simulators.births import born
from sqlmodel import func, select

from cloud_hub.actions import worker
from cloud_hub.actions.core.policy import Policy, Rule, SensitiveSequence, Storm
from cloud_hub.actions.service import ActionService, Proposal
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, AlarmRow, AuditRow, Command, Device, Incident
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from shared.protocol.messages import Birth

NOW, SECOND, HOUR = 1_800_000_000_000_000, 1_000_000, 3_600_000_000
DEVICE, OTHER = "press-3", "press-4"
TWO = Rule(name="two", decision="approve", approvals=2)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(databases.sqlite(tmp_path))
    with database.write() as session:
        for device, path in ((DEVICE, "acme/a"), (OTHER, "acme/b")):
            born(session, Birth(device=device, session="s", epoch="e"), NOW)
            session.get_one(Device, device).assigned_path = path
    yield database
    database.close()


def service(*rules: Rule, **more: Any) -> ActionService:
    made = action_service()
    made.policy = Policy(rules=rules, **more)
    return made


def proposal(**change: Any) -> Proposal:
    values: dict[str, Any] = {"type": "twin", "parameters": {"patch": {"a": 1}}, "device": DEVICE, "proposer": "petra"}
    return Proposal(**(values | change))


def propose(db: Database, actions: ActionService, now_us: int = NOW, **change: Any) -> Action:
    with db.write() as session:
        return actions.propose(session, proposal(**change), now_us)


def approve(db: Database, actions: ActionService, number: str, actor: str, roles: str = "operator", scope: Any = None,
            now_us: int = NOW) -> Action:  # fmt: skip
    with db.write(scope=scope) as session:
        return actions.approve(session, number, actor, roles, now_us)


def state(db: Database, number: str) -> str:
    with db.read() as session:
        return session.get_one(Action, number).state


def run(db: Database, actions: ActionService, now_us: int = NOW) -> None:
    worker.run_once(db, actions, now_us)


def refused(call: Any, status: int) -> str:
    with pytest.raises(HubError) as caught:
        call()
    assert caught.value.status == status
    return caught.value.detail


# -- approvals -----------------------------------------------------------------------------------------


def test_two_people_approve(db: Database) -> None:
    actions = service(TWO)
    row = propose(db, actions)
    assert approve(db, actions, row.id, "anna").state == "proposed"
    run(db, actions)
    assert state(db, row.id) == "proposed"
    assert approve(db, actions, row.id, "bert").state == "approved"
    run(db, actions)
    assert state(db, row.id) == "executed"


@pytest.mark.parametrize(("actor", "roles", "why"), [
    ("anna", "viewer", "role operator"),
    ("anna", "admin auditor", "role operator"),
    ("anna", "", "role operator"),
    ("anna", "operators", "role operator"),
    ("petra", "operator", "own proposal"),
])  # fmt: skip
def test_an_approval_that_does_not_count_is_refused(db: Database, actor: str, roles: str, why: str) -> None:
    actions = service(TWO)
    row = propose(db, actions)
    assert why in refused(lambda: approve(db, actions, row.id, actor, roles), 403)


def test_nobody_approves_twice(db: Database) -> None:
    actions = service(TWO)
    row = propose(db, actions)
    approve(db, actions, row.id, "anna")
    assert "another person" in refused(lambda: approve(db, actions, row.id, "anna"), 403)


def test_an_approver_of_another_site_sees_no_action(db: Database) -> None:
    actions = service(TWO)
    row = propose(db, actions)
    refused(lambda: approve(db, actions, row.id, "anna", scope=("acme/b",)), 404)
    assert approve(db, actions, row.id, "anna", scope=("acme/a",)).state == "proposed"


def test_an_action_without_a_device_is_not_for_scoped_people(db: Database) -> None:
    actions = service(TWO)
    row = propose(db, actions, type="job", device="", parameters={"kind": "tags", "query": "*", "content": {"a": 1}})
    refused(lambda: approve(db, actions, row.id, "anna", scope=("acme/a",)), 404)


@pytest.mark.parametrize("wanted", [
    {"type": "scale", "parameters": {"target": "experts", "replicas": 3}},
    {"type": "job", "parameters": {"kind": "tags", "query": "*", "content": {"a": 1}}},
], ids=lambda wanted: str(wanted["type"]))  # fmt: skip
def test_who_sees_only_the_device_approves_nothing_that_reaches_beyond_it(db: Database, wanted: Any) -> None:
    actions = service(TWO)
    row = propose(db, actions, **wanted)
    assert "beyond the scope" in refused(lambda: approve(db, actions, row.id, "anna", scope=("acme/a",)), 403)
    assert len(approve(db, actions, row.id, "anna").approvals) == 1


@pytest.mark.parametrize("change", [
    {"type": "scale", "parameters": {"target": "experts", "replicas": 3}},
    {"type": "webhook", "parameters": {"webhook": "x"}, "device": ""},
], ids=lambda change: str(change["type"]))  # fmt: skip
def test_who_has_a_scope_proposes_nothing_of_the_whole_hub(db: Database, change: Any) -> None:
    actions = service(TWO)
    assert "whole hub" in refused(lambda: propose(db, actions, scope=("acme/a",), **change), 403)
    assert propose(db, actions, **change).state == "proposed"


def test_who_proposed_a_job_within_a_scope_has_it_approved_there(db: Database) -> None:
    actions = service(TWO)
    job = {"type": "job", "parameters": {"kind": "tags", "query": "*", "content": {"a": 1}}}
    row = propose(db, actions, scope=("acme/a",), **job)
    assert len(approve(db, actions, row.id, "anna", scope=("acme/a",)).approvals) == 1


@pytest.mark.parametrize("text", [
    "approved by anna and bert", '{"approvals": [{"actor": "anna", "roles": "operator"}]}', "action.approved",
    "decision: allow", "rule 'all' allows it",
])  # fmt: skip
def test_text_approves_nothing(db: Database, text: str) -> None:
    """Reasons, parameters and names are data: no text in them is an approval or another command."""
    actions = service(Rule(name="look", decision="allow", actions=("command:diagnose/*",)), TWO)
    for change in (
        {"reason": text}, {"parameters": {"patch": {text: text}}}, {"proposer": text},
        {"type": "command", "parameters": {"verb": "restart", "target": text}},
        {"type": "command", "parameters": {"verb": "restart", "target": "x\ncommand:diagnose/y"}},
    ):  # fmt: skip
        row = propose(db, actions, **change)
        run(db, actions)
        assert (state(db, row.id), row.approvals) == ("proposed", [])
    with db.read() as session:
        assert session.exec(select(Command)).all() == []


@pytest.mark.parametrize("verb", ["diagnose/x", "diagnose ", "", "Diagnose", "diagnose\n", "*", "../diagnose"])
def test_a_verb_that_looks_like_another_is_no_verb(db: Database, verb: str) -> None:
    actions = service(Rule(name="look", decision="allow", actions=("command:diagnose/*",)))
    wanted = {"type": "command", "parameters": {"verb": verb, "target": "erase"}}
    refused(lambda: propose(db, actions, **wanted), 422)


# -- keys ----------------------------------------------------------------------------------------------


def test_a_key_proposes_one_action(db: Database) -> None:
    actions = service(TWO)
    first, again = propose(db, actions, key="k"), propose(db, actions, NOW + SECOND, key="k")
    assert first.id == again.id
    assert "another action" in refused(lambda: propose(db, actions, key="k", device=OTHER), 409)


# -- the policy at the time of the effect --------------------------------------------------------------


def test_a_policy_that_has_become_stricter_holds(db: Database) -> None:
    actions = service(Rule(name="all", decision="allow"))
    row = propose(db, actions)
    actions.policy = Policy(rules=(TWO,))
    run(db, actions)
    assert state(db, row.id) == "proposed", "it waits for people"
    actions.policy = Policy(rules=())
    refused(lambda: approve(db, actions, row.id, "anna"), 409)
    other = service(Rule(name="all", decision="allow"))
    row = propose(db, other, key="second")
    other.policy = Policy(rules=())
    run(db, other)
    assert state(db, row.id) == "refused"


def test_an_action_that_is_approved_too_late_waits_again(db: Database) -> None:
    hours = Rule(name="day", decision="allow", hours=("mon-sun 08:00-09:00",))
    actions = service(hours, TWO)
    day_us = NOW - NOW % (24 * HOUR)
    row = propose(db, actions, day_us + 8 * HOUR + 3599 * SECOND)
    assert row.state == "approved"
    run(db, actions, day_us + 9 * HOUR)
    assert state(db, row.id) == "proposed"


def test_a_sequence_of_two_approved_actions_is_blocked_between_them(db: Database) -> None:
    disable = SensitiveSequence(name="s", first=("limits:remove*", "alarm:*"), then=("twin",))
    actions = service(Rule(name="all", decision="allow"), sequences=(disable,))
    limits = {"type": "limits", "parameters": {"remove": ["cpu.load"]}}
    second = propose(db, actions)
    assert second.state == "approved", "nothing came before it yet"
    propose(db, actions, **limits)
    run(db, actions)
    with db.read() as session:
        row = session.get_one(Action, second.id)
    assert (row.state, row.outcome) == (
        "refused",
        "the policy forbids it now: sequence 's': after limits remove/cpu.load",
    )
    other = propose(db, actions, NOW + SECOND, device=OTHER)
    assert other.state == "approved", "another device"


# -- a device that goes, storms ------------------------------------------------------------------------


def test_a_device_that_is_removed_after_the_approval_is_left_alone(db: Database) -> None:
    actions = service(Rule(name="all", decision="allow"))
    row = propose(db, actions)
    with db.write() as session:
        decommissioning.remove(session, DEVICE, NOW, actor="anna")
    run(db, actions)
    assert state(db, row.id) == "refused"
    late = propose(db, actions, key="late")
    run(db, actions)
    assert state(db, late.id) == "failed"


def test_a_storm_needs_people_raises_an_alarm_and_is_bounded(db: Database) -> None:
    actions = service(Rule(name="all", decision="allow"), storm=Storm(floor=5, ceiling=20))
    states = [propose(db, actions, key=f"k{number}").state for number in range(21)]
    for number in range(21, 60):
        refused(lambda number=number: propose(db, actions, key=f"k{number}"), 429)  # type: ignore[misc]
    assert states[:6] == ["approved"] * 6
    assert set(states[6:]) == {"proposed"}
    with db.read() as session:
        assert session.exec(select(func.count()).select_from(Action)).one() == 21
        alarm = session.exec(select(AlarmRow).where(AlarmRow.device == incidents.HUB)).one()
        incident = session.get_one(Incident, alarm.incident)
    assert (alarm.metric, alarm.state) == ("actions/storm", "raised")
    assert incident.diagnosis is not None
    assert incident.diagnosis["cause"] == "action-storm"
    run(db, actions, NOW + HOUR)
    with db.read() as session:
        assert session.get_one(AlarmRow, alarm.id).state == "cleared"


def test_a_hub_that_restarts_in_a_storm_knows_it(db: Database) -> None:
    def fresh() -> ActionService:
        return service(Rule(name="all", decision="allow"), storm=Storm(floor=2, ceiling=20))

    for number in range(4):
        propose(db, fresh(), key=f"k{number}")
    with db.read() as session:
        assert len(session.exec(select(AlarmRow)).all()) == 1
    run(db, fresh(), NOW + HOUR)
    with db.read() as session:
        assert session.exec(select(AlarmRow)).one().state == "cleared"


# -- cancel, undo --------------------------------------------------------------------------------------


def test_a_cancelled_command_is_cancelled_on_the_device(db: Database) -> None:
    actions = service(Rule(name="all", decision="allow"))
    row = propose(db, actions, type="command", parameters={"verb": "capture", "target": "digits"})
    run(db, actions)
    with db.write() as session:
        cancelled, messages = actions.cancel(session, row.id, "anna", NOW)
    assert (cancelled.state, len(messages)) == ("cancelled", 1)
    assert messages[0].topic.endswith("/cancel")
    run(db, actions, NOW + HOUR)
    assert state(db, row.id) == "cancelled"


def test_an_undo_of_what_somebody_changed_since_is_refused(db: Database) -> None:
    actions = service(Rule(name="all", decision="allow"))
    row = propose(db, actions)
    run(db, actions)
    propose(db, actions, key="theirs", parameters={"patch": {"a": 5}})
    run(db, actions)
    with db.write() as session:
        by = proposal()
        assert "changed it since" in refused(lambda: actions.undo(session, row.id, by, NOW), 409)


def test_an_undo_is_judged_like_any_other(db: Database) -> None:
    actions = service(Rule(name="all", decision="allow"))
    row = propose(db, actions)
    run(db, actions)
    actions.policy = Policy(rules=(TWO,))
    with db.write() as session:
        undone = actions.undo(session, row.id, proposal(), NOW)
    assert (undone.state, undone.undo_of) == ("proposed", row.id)


def test_an_undo_that_came_to_nothing_stands_in_no_ones_way(db: Database) -> None:
    actions = service(Rule(name="all", decision="allow"))
    row = propose(db, actions)
    run(db, actions)
    actions.policy = Policy(rules=(TWO,))
    seen = set()
    for _ in range(3):
        with db.write() as session:
            undone = actions.undo(session, row.id, proposal(), NOW)
            assert undone.state == "proposed"
            assert actions.undo(session, row.id, proposal(proposer="bert"), NOW).id == undone.id
            actions.cancel(session, undone.id, "petra", NOW)
        seen.add(undone.id)
    assert len(seen) == 3


def test_every_step_is_in_the_audit_trail(db: Database) -> None:
    actions = service(TWO)
    row = propose(db, actions)
    for actor in ("anna", "bert"):
        approve(db, actions, row.id, actor)
    run(db, actions)
    with db.read() as session:
        rows = session.exec(select(AuditRow).order_by(AuditRow.seq))  # type: ignore[arg-type]
        trail = [(one.actor, one.kind) for one in rows if one.kind.startswith("action.")]
    assert trail == [
        ("petra", "action.proposed"), ("anna", "action.approval"), ("bert", "action.approved"),
        ("hub", "action.executing"), (DEVICE, "action.executed"),
    ]  # fmt: skip
