"""Playbooks over real actions: the policy, the worker of actions, and a device that answers commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulators.actions import action_service
from simulators.playbook_world import SECOND, START
from sqlmodel import col, select

from cloud_hub.actions import worker as actions
from cloud_hub.actions.service import ActionService
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, AlarmRow, Command, Device, Incident, PlaybookRun
from cloud_hub.devices import commands
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from cloud_hub.playbooks import journal, proposals, service
from cloud_hub.playbooks.actions import ActionRunner, judge_plan
from cloud_hub.playbooks.catalogue import PlaybookCatalogue
from cloud_hub.playbooks.core import machine
from cloud_hub.playbooks.engine import Engine
from cloud_hub.settings import Actions
from cloud_hub.twins import service as twins
from shared.protocol.codec import encode
from shared.protocol.messages import CommandResult

VALUES = {"device": "press-3", "model": "digits"}


class Site:
    """A hub with one device, which does what commands say unless it is `broken`."""

    def __init__(self, db: Database, folder: str = "", settings: Actions | None = None) -> None:
        self.db, self.now, self.broken, self.starts = db, START, False, 1
        self.actions: ActionService = action_service(settings or Actions(automatic=["diagnose"]))
        self.catalogue = PlaybookCatalogue(folder)
        self.engine = Engine(db, ActionRunner(self.actions), clock=lambda: self.now, wall=lambda: self.now)
        with db.write() as session:
            session.add(Device(id="press-3", state="online"))
        self.report()

    def report(self) -> None:
        state = {"models": {"digits": {"state": "running", "starts": self.starts}}}
        body = encode({"state": {"reported": state}})
        with self.db.write() as session:
            twins.handle_request(session, "press-3", "", "update", body, self.now, actor="press-3", max_bytes=32768)

    def propose(self, name: str = "restart-model", **values: Any) -> PlaybookRun:
        plan = self.catalogue.plan(name, VALUES | values)
        with self.db.write() as session:
            verdicts = judge_plan(session, self.actions, plan, self.now, actor="anna")
            return service.propose(session, plan, verdicts, self.now, actor="anna")

    def approve(self, run: PlaybookRun, actor: str = "bert") -> PlaybookRun:
        with self.db.write() as session:
            return service.decide(session, run.id, True, self.now, actor, "operator")

    def turn(self) -> None:
        self.engine.run_once()
        actions.run_once(self.db, self.actions, self.now)
        with self.db.read() as session:
            waiting = list(session.exec(select(Command).where(col(Command.done_us).is_(None))))
        for command in waiting:
            self.answer(command)
        self.now += SECOND

    def answer(self, command: Command) -> None:
        if self.broken:
            return
        self.starts += command.verb == "restart"
        result = CommandResult(id=command.id, state="succeeded", t_us=self.now)
        with self.db.write() as session:
            commands.handle_result(session, "press-3", result, self.now)
        self.report()

    def finish(self, run: PlaybookRun) -> PlaybookRun:
        for _ in range(300):
            row = self.row(run.id)
            if row.state in machine.FINAL:
                return row
            self.turn()
        raise AssertionError(self.row(run.id).progress)

    def row(self, run: str) -> PlaybookRun:
        with self.db.read() as session:
            return service.get(session, run)

    def rows(self, run: PlaybookRun) -> list[Action]:
        with self.db.read() as session:
            return list(session.exec(select(Action).where(Action.playbook_run == run.id).order_by(Action.id)))


@pytest.fixture
def site(db: Database) -> Site:
    return Site(db)


def test_a_restart_is_approved_once_and_verified_in_the_twin(site: Site) -> None:
    run = site.propose()
    assert [(v["step"], v["decision"]) for v in run.verdicts] == [("before", "allow"), ("restart", "approve")]
    site.turn()
    assert (site.rows(run), run.state) == ([], "proposed")
    assert site.approve(run).state == "running"
    ended = site.finish(run)
    assert (ended.state, ended.reason) == ("succeeded", "")
    rows = site.rows(run)
    assert [(row.step, row.state) for row in rows] == [("before", "verified"), ("restart", "verified")]
    assert [row.idempotency_key for row in rows] == [f"{run.id}/before/0.0", f"{run.id}/restart/0.0"]
    assert site.starts == 2


def test_a_device_that_does_not_answer_fails_the_run_after_its_retries(site: Site) -> None:
    site.broken = True
    run = site.propose()
    site.approve(run)
    ended = site.finish(run)
    assert ended.state == "failed"
    assert ended.reason.startswith("restart: the command was")
    tries = [row.idempotency_key.rpartition("/")[2] for row in site.rows(run) if row.step == "restart"]
    assert tries == ["0.0", "0.0#1", "0.0#2", "0.0#3"]


def test_cancel_takes_the_command_back(site: Site) -> None:
    site.broken = True
    run = site.propose()
    site.approve(run)
    site.turn()
    with site.db.write() as session:
        service.cancel(session, run.id, site.now, "anna")
    messages = site.engine.run_once().messages
    assert any(message.topic.endswith("/cancel") for message in messages)
    assert site.finish(run).state == "cancelled"
    assert [row.state for row in site.rows(run)] == ["cancelled"]


def test_a_policy_that_is_stricter_now_holds_the_step(site: Site) -> None:
    """The approvals of the run are those of its steps, but each is judged again before its effect."""
    run = site.propose()
    site.approve(run)
    site.actions.policy = action_service(Actions(automatic=[])).policy
    strict = [rule for rule in site.actions.policy.rules if rule.name == "two-others-decide"]
    site.actions.policy = type(site.actions.policy)(rules=tuple(strict), otherwise="forbid")
    ended = site.finish(run)
    assert ended.state == "failed"
    assert "refused by the policy: no rule allows" in ended.reason
    assert {row.state for row in site.rows(run)} == {"refused"}
    assert site.starts == 1


def test_the_second_restart_in_one_playbook_is_judged_after_the_first(db: Database, tmp_path: Path) -> None:
    restart = "action: command, device: '${device}', parameters: {verb: restart, target: digits}"
    (tmp_path / "twice.yaml").write_text("parameters: {device: {type: string}, model: {type: string}}\nsteps:\n"
                                         f"  a: {{{restart}}}\n  b: {{{restart}, needs: [a]}}\n")  # fmt: skip
    site = Site(db, str(tmp_path), Actions(automatic=["restart"]))
    with db.write() as session:
        session.add(AlarmRow(id="a1", device="press-3", metric="digits/age_s", kind="high", priority="high",
                             state="raised", value=9.0, limit=2.0, raised_us=START, received_us=START))  # fmt: skip
    run = site.propose("twice")
    assert [(v["step"], v["decision"]) for v in run.verdicts] == [("a", "allow"), ("b", "approve")]
    with db.read() as session:
        assert session.exec(select(Action)).all() == []  # a verdict stores nothing


@pytest.mark.parametrize(
    ("values", "status"), [({"device": "nobody-knows"}, 404), ({"model": "x" * 300}, 422), ({"device": 3}, 422)]
)
def test_a_run_that_cannot_be_is_refused(site: Site, values: dict[str, Any], status: int) -> None:
    def judge() -> None:
        plan = site.catalogue.plan("restart-model", VALUES | values)
        with site.db.write(scope=("site-a",) if status == 404 else None) as session:
            judge_plan(session, site.actions, plan, site.now, actor="anna")

    with pytest.raises(HubError) as caught:
        judge()
    assert caught.value.status == status


def test_an_action_that_is_not_kept_any_more_fails_its_step(site: Site) -> None:
    site.broken = True
    run = site.propose()
    site.approve(run)
    site.turn()
    with site.db.write() as session:
        for row in session.exec(select(Action)).all():
            session.delete(row)
    site.turn()
    with site.db.read() as session:
        failed = [e.data["outcome"] for e in journal.entries(session, run.id) if e.kind == "step.failed"]
    assert failed == ["its action is not kept any more"]


def test_a_changed_file_changes_no_run(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    text = "parameters: {device: {type: string}, model: {type: string}}\nsteps:\n  a: {wait: 3s}\n  b: {wait: 1s}\n"
    file.write_text(text)
    site = Site(db, str(tmp_path))
    run = site.propose("it")
    site.turn()
    file.write_text(text.replace("  b: {wait: 1s}", "  c: {action: gone}"))
    assert site.finish(run).state == "succeeded"
    assert set(site.row(run.id).progress["steps"]) == {"a", "b"}
    with pytest.raises(HubError, match="not installed"):
        site.propose("it")


def test_shipped_playbooks_are_valid_and_their_actions_are_installed(site: Site) -> None:
    listed = site.catalogue.list_all()
    assert len(listed) >= 2
    for each in listed:
        assert each.error is None
        plan = site.catalogue.picture(each.name)
        assert {step.action for step in plan.steps if step.action} <= set(site.actions.catalogue.types)


def test_one_bad_file_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("steps: [")
    (tmp_path / "Bad Name.yaml").write_text("steps: {a: {wait: 1s}}")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "restart-model.yaml").write_text("description: mine\nsteps: {a: {wait: 1s}}")
    listed = {each.name: each for each in PlaybookCatalogue(str(tmp_path)).list_all()}
    assert [name for name, each in listed.items() if each.error] == ["Bad Name", "bad", "binary"]
    mine = listed["restart-model"].playbook
    assert mine is not None
    assert mine.description == "mine"


# -- incidents -------------------------------------------------------------------------------------


def incident(site: Site) -> str:
    with site.db.write() as session:
        session.add(Incident(id="i1", device="press-3", subject="digits", opened_us=START, traceparent=""))
    return "i1"


def suggest(site: Site, **parameters: Any) -> PlaybookRun | None:
    wanted = {"name": "restart-model", "model": "digits"} | parameters
    with site.db.write() as session:
        return proposals.propose(
            session, site.actions, site.catalogue, wanted, site.now, device="press-3", actor="rules", incident="i1",
            trace="",
        )  # fmt: skip


def test_a_diagnosis_proposes_a_playbook_once_for_its_own_device(site: Site, tmp_path: Path) -> None:
    incident(site)
    run = suggest(site, device="another")
    assert run is not None
    assert (run.origin, run.actor, run.incident, run.state) == ("diagnosis", "rules", "i1", "proposed")
    assert {step["device"] for step in run.plan["steps"] if "action" in step} == {"press-3"}
    assert suggest(site) is None
    (tmp_path / "restart-model.yaml").write_text(
        "parameters: {device: {type: string}, model: {type: string}}\nsteps: {a: {action: command, device: other, "
        "parameters: {verb: restart}}}"
    )
    site.catalogue = PlaybookCatalogue(str(tmp_path))
    with pytest.raises(HubError, match="acts on other"):
        suggest(site)


def test_an_incident_stays_open_while_its_playbook_is(site: Site) -> None:
    incident(site)
    run = suggest(site)
    assert run is not None
    site.engine = Engine(site.db, ActionRunner(site.actions), lambda: site.now, lambda: site.now, incidents.run_ended)
    with site.db.write() as session:
        incidents.settle(session, "i1", site.now)
    assert state_of_incident(site) == "open"
    site.approve(run)
    assert site.finish(run).state == "succeeded"
    assert state_of_incident(site) == "resolved"


def state_of_incident(site: Site) -> str:
    with site.db.read() as session:
        return session.get_one(Incident, "i1").state


def test_a_resolved_incident_ends_its_playbooks(site: Site) -> None:
    incident(site)
    run = suggest(site)
    assert run is not None
    with site.db.write() as session:
        incidents.resolve(session, "i1", site.now, actor="anna", reason="taken off")
    assert (site.row(run.id).state, site.row(run.id).reason) == ("cancelled", "taken off")
