"""`tidegate-hub desk try` against a hub: stored incidents, tests that name one, and the caller's language."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from simulators.actions import action_service
from simulators.rest import RestHub, rest_hub
from sqlmodel import select

from cloud_hub.__main__ import main
from cloud_hub.cli.remote import EXIT_FAILED, EXIT_NOT_FOUND
from cloud_hub.database.tables import Incident
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents import worker
from shared.protocol.messages import Alarm

NOW = 1_800_000_000_000_000
RULE = "rules: [{name: hot-hall, cause: hot-hall, confidence: 0.6, when: [{metric: 'temp.*'}], propose: []}]\n"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RestHub, str]]:
    """A hub with one diagnosed incident, and its id."""
    alarm = Alarm(
        id="a1", metric="temp.cpu", kind="high", state="raised", priority="high", t_us=NOW, value=97.0, limit=90.0
    )
    with rest_hub(tmp_path_factory.mktemp("hub")) as running:
        with running.db.write() as session:
            incidents.handle_alarm(session, "press-3", alarm, NOW, "")
        worker.run_once(running.db, None, action_service())
        with running.db.read() as session:
            number = session.exec(select(Incident.id)).one()
        yield running, number


@pytest.fixture
def tried(hub: tuple[RestHub, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Run `desk try` with a file; returns (exit code, rows)."""
    monkeypatch.setenv("TIDEGATE_URL", f"http://127.0.0.1:{hub[0].port}")
    monkeypatch.setenv("TIDEGATE_TOKEN", hub[0].token)

    def run(text: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
        (tmp_path / "rules.yaml").write_text(text, "utf-8")
        code = main(["desk", "try", str(tmp_path / "rules.yaml"), "--json", *options])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_stored_incidents_show_what_would_change(hub: tuple[RestHub, str], tried: Any) -> None:
    code, (row,) = tried(RULE, "--last", "5")
    assert code == 0
    assert (row["name"], row["cause"], row["state"], row["remarks"]) == (
        hub[1],
        "hot-hall",
        "changed",
        ["was overheating"],
    )
    code, (row,) = tried("rules: []", "--incident", hub[1])
    assert (code, row["cause"], row["state"]) == (0, "overheating", "same")


def test_a_test_of_a_file_may_name_a_stored_incident(hub: tuple[RestHub, str], tried: Any) -> None:
    assert tried(f"{RULE}tests: [{{incident: {hub[1]}, cause: hot-hall, proposes: []}}]")[0] == 0
    assert tried(f"{RULE}tests: [{{incident: {hub[1]}, cause: overheating}}]")[0] == EXIT_FAILED
    assert tried(f"{RULE}tests: [{{incident: none, cause: overheating}}]")[0] == EXIT_NOT_FOUND


def test_an_incident_is_answered_in_the_callers_language(hub: tuple[RestHub, str]) -> None:
    running, number = hub
    headers = {"Authorization": f"Bearer {running.token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{running.port}/api/v1", headers=headers) as client:
        plain = client.get(f"/incidents/{number}").json()["incident"]["diagnosis"]
        chinese = client.get(f"/incidents/{number}", headers={"Accept-Language": "zh-CN"}).json()["incident"][
            "diagnosis"
        ]
        (listed,) = client.get("/incidents", headers={"Accept-Language": "zh"}).json()
    assert plain["explanation"] == "temp.cpu is 97, above 90 (rules, no language model)"
    assert chinese["explanation"] == listed["diagnosis"]["explanation"]
    assert chinese["explanation"].startswith("temp.cpu 为 97")
    assert chinese["claims"][0]["cites"] == plain["claims"][0]["cites"]
