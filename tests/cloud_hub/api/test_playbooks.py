"""/api/v1/playbooks and /api/v1/playbook-runs, and `tidegate-hub playbook` against them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from simulators.births import born
from simulators.rest_world import NOW, Role, World, problem

from cloud_hub import __main__
from cloud_hub.access import tokens
from cloud_hub.actions.service import Proposal
from cloud_hub.cli import playbook
from cloud_hub.database.tables import Device, Incident, PlaybookRun
from cloud_hub.incidents import cases
from shared.protocol.messages import Birth

VALUES = {"device": "press-3", "model": "digits"}
BODY = {"playbook": "restart-model", "parameters": VALUES}


def proposed(world: World) -> dict[str, Any]:
    answer = world.ask("POST", "/api/v1/playbook-runs", "operator", json=BODY)
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


def test_the_catalogue_is_listed_and_drawn(world: World) -> None:
    rows = {row["name"]: row for row in world.ask("GET", "/api/v1/playbooks", "viewer").json()}
    assert rows["restart-model"]["steps"] == ["before", "restart", "settle", "online"]
    assert [each["name"] for each in rows["restart-model"]["parameters"]] == ["device", "model"]
    answer = world.ask("GET", "/api/v1/playbooks/restart-model/drawing", "viewer")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-security-policy"] == "default-src 'none'"
    assert ElementTree.fromstring(answer.text).tag.endswith("svg")
    mermaid = world.ask("GET", "/api/v1/playbooks/restart-model/drawing?form=mermaid", "viewer")
    assert mermaid.text.startswith("flowchart TD\n")
    problem(world.ask("GET", "/api/v1/playbooks/..%2fx/drawing", "viewer"), 404)


def test_a_dry_run_shows_steps_and_verdicts_and_stores_nothing(world: World) -> None:
    path = "/api/v1/playbooks/restart-model/dry-run"
    answer = world.ask("POST", path, "operator", json={"parameters": VALUES}).json()
    assert answer["layers"] == [["before"], ["restart"], ["settle"], ["online"]]
    assert (answer["approvals"], answer["forbidden"]) == (1, [])
    assert [step["verdict"]["decision"] for step in answer["steps"] if step["action"]] == ["allow", "approve"]
    assert world.ask("GET", "/api/v1/playbook-runs", "viewer").json() == []


def test_another_person_approves_and_the_worker_is_notified(world: World) -> None:
    view = proposed(world)
    number = view["run"]["id"]
    assert (view["run"]["state"], view["approvals_needed"]) == ("proposed", 1)
    path = f"/api/v1/playbook-runs/{number}/decision"
    assert "own proposal" in problem(world.ask("POST", path, "operator", json={"approve": True}), 403)
    world.notified.clear()
    decided = world.ask("POST", path, json={"approve": True}).json()  # by anna
    assert (decided["run"]["state"], world.notified) == ("running", ["playbooks"])
    problem(world.ask("POST", path, json={"approve": True}), 409)
    entries = world.ask("GET", f"/api/v1/playbook-runs/{number}/journal", "viewer").json()
    assert [entry["kind"] for entry in entries] == ["run.proposed", "run.approved", "run.running"]
    drawn = world.ask("GET", f"/api/v1/playbook-runs/{number}/drawing", "viewer")
    assert drawn.text.count("pending") >= 4
    assert world.ask("POST", f"/api/v1/playbook-runs/{number}/cancel", "operator").json()["run"]["state"] == "stopping"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"playbook": "nothing"}, 404, "is in no folder"),
        ({"playbook": "../../etc/passwd"}, 404, "is in no folder"),
        ({"playbook": "restart-model"}, 422, "parameters.device: is missing"),
        (BODY | {"parameters": VALUES | {"more": 1}}, 422, "no such parameter"),
        (BODY | {"parameters": VALUES | {"device": ["x"]}}, 422, "is no string"),
        (BODY | {"incident": "no-such-incident"}, 404, "no-such-incident"),
        (BODY | {"parameters": {str(n): 1 for n in range(60)}}, 422, "parameters"),
    ],
)
def test_what_cannot_run_is_refused(world: World, body: dict[str, Any], status: int, reason: str) -> None:
    assert reason in problem(world.ask("POST", "/api/v1/playbook-runs", "operator", json=body), status)


def test_a_scope_hides_runs_and_devices(world: World) -> None:
    number = proposed(world)["run"]["id"]
    token = world.ask("POST", "/api/v1/tokens", "admin",
                      json={"name": "south", "roles": ["operator"], "scope": ["acme/south"]}).json()  # fmt: skip
    headers = {"Authorization": f"Bearer {token['token']}"}
    listed = world.ask("GET", "/api/v1/playbook-runs", None, headers=headers)
    assert (listed.status_code, listed.json()) == (200, [])
    for verb in ("cancel", "resume"):
        problem(world.ask("POST", f"/api/v1/playbook-runs/{number}/{verb}", None, headers=headers), 404)
    problem(world.ask("POST", "/api/v1/playbook-runs", None, headers=headers, json=BODY), 404)


def test_a_run_keeps_no_incident_of_another_site_open(world: World) -> None:
    """And an incident shows no action on a device of another site."""
    with world.db.write() as session:
        born(session, Birth(device="south-1", session="s", epoch="e"), NOW)
        session.get_one(Device, "south-1").assigned_path = "acme/south"
        session.get_one(Device, "press-3").assigned_path = "acme/north"
        tokens_of = {site: f"Bearer {tokens.create(session, site, 'operator', NOW, 'test', scope=(f'acme/{site}',))}"
                     for site in ("north", "south")}  # fmt: skip
    incident = world.ids["incident_id"]
    body = BODY | {"parameters": VALUES | {"device": "south-1"}, "incident": incident}
    for path in ("playbook-runs", "playbooks/restart-model/dry-run"):
        sent = body if path == "playbook-runs" else {name: body[name] for name in ("parameters", "incident")}
        answer = world.ask("POST", f"/api/v1/{path}", None, headers={"Authorization": tokens_of["south"]}, json=sent)
        assert incident in problem(answer, 404)
    with world.db.write() as session:
        proposal = Proposal(type="twin", parameters={"patch": {"a": 1}}, device="south-1", incident=incident)
        world.app.state.hub.actions.propose(session, proposal, NOW)
        session.merge(cases.close(session, session.get_one(Incident, incident)))
    for path in (f"incidents/{incident}", f"cases/{incident}", "cases"):
        shown = world.ask("GET", f"/api/v1/{path}", None, headers={"Authorization": tokens_of["north"]})
        assert "press-3" in shown.text
        assert "south-1" not in shown.text
        assert "south-1" in world.ask("GET", f"/api/v1/{path}").text


# -- the command line ------------------------------------------------------------------------------


class Here:
    """The client of `playbook`, in this process."""

    def __init__(self, world: World, role: Role) -> None:
        self._world, self._role = world, role

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def request(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self._world.ask(method, f"/api/v1{path}", self._role, json=body, params=query)
        assert answer.is_success, answer.text
        return answer

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        return self.request(method, path, body, **query).json()

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, None, **query)


@pytest.fixture
def cli(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str, role: Role = "operator") -> str:
        monkeypatch.setattr(playbook, "connect", lambda _: Here(world, role))
        assert __main__.main(["playbook", *words]) == 0
        return str(capsys.readouterr().out)

    return run


def test_a_run_from_the_command_line(cli: Any) -> None:
    assert "restart-model" in cli("list")
    values = ("-p", "device=press-3", "-p", "model=digits")
    dry = cli("dry-run", "restart-model", *values)
    assert "approvals needed: 1" in dry
    assert "2. restart: command" in dry
    lines = cli("run", "restart-model", *values).splitlines()
    number = lines[0].split()[0]
    assert lines[1] == "  0 of 1 approvals"
    assert "running" in cli("approve", number, role="everything").splitlines()[0]
    assert "pending     before: command" in cli("status", number)
    assert number in cli("status")
    assert cli("draw", number).startswith("<svg")
    assert "stopping" in cli("cancel", number)


def test_files_are_checked_without_a_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("parameters: {device: {type: string}}\nsteps:\n  a: {playbook: inner}\n")
    (tmp_path / "inner.yaml").write_text("steps: {x: {wait: 1s}}")
    bad.write_text("steps:\n  a: {wait: x}\n  b: {playbook: \x00}\n".replace("\x00", "none"))
    assert __main__.main(["playbook", "check", str(good)]) == 0
    assert "3 steps, well" in capsys.readouterr().out
    assert __main__.main(["playbook", "check", str(good), str(bad)]) == 1
    assert "bad.yaml: line 2: steps.a.wait: 'x' is no duration" in capsys.readouterr().err
    good.write_text("steps: {a: {action: no-such}}")
    assert __main__.main(["playbook", "check", str(good)]) == 1
    assert "'no-such' is no installed type" in capsys.readouterr().err
    assert __main__.main(["playbook", "draw", str(good), "--format", "mermaid"]) == 0
    assert capsys.readouterr().out.startswith("flowchart TD")


def test_nobodys_text_can_steer_the_terminal() -> None:
    evil = "\x1b[2J\u202e"
    row = PlaybookRun(id="r", playbook="p", version="v", plan={}, actor="a", created_us=0, reason=evil).model_dump()
    assert not set("\x1b\u202e") & set(playbook._line(row))
