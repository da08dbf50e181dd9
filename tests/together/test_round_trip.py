"""One device and one hub over a real broker: every way up and every way down, seen through REST alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
from simulators.brokers import MOSQUITTO_FIRST, Kind, until
from simulators.postgres import Server, postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"


@pytest.mark.parametrize("kind", MOSQUITTO_FIRST)
def test_the_whole_way_up_and_down(build: Any, kind: Kind) -> None:
    _whole_way(build(kind), lambda _world: None)


def test_the_whole_way_on_postgresql_which_ends_and_comes_back(build: Any) -> None:
    with postgres() as server, server.database() as url:
        _whole_way(build("mosquitto", url), lambda world: _outage(world, server))


def _outage(world: Any, server: Server) -> None:
    """Nothing is acknowledged while the database is away, and nothing is missing afterwards."""
    server.stop()
    until("the hub tells it", lambda: world.logged("hub", "database.not_ready"))
    assert world.http.get("/devices").status_code == 503
    server.start()
    until("REST is back", lambda: world.online(DEVICE))


def _whole_way(world: Any, between: Callable[[Any], None]) -> None:
    world.broker.start()
    world.start_hub()
    limit = '[[limits]]\nmetric = "memory.used"\nhigh = 0.0\npriority = "high"\n'
    world.start_edge(DEVICE, world.camera() + limit)

    until("the device is online", lambda: world.online(DEVICE))
    row = world.get(f"/devices/{DEVICE}")
    assert (row["profile"], row["asset_path"], row["protocol"]) == ("x86-64", "tests/together", 1)
    assert {"cpu.load", "digits/label"} <= {metric["name"] for metric in row["metrics"]}

    until("the model runs", lambda: _model(world).get("state") == "running")
    assert world.reported(DEVICE)["agent"]["boot"] == 1

    _desired_settings(world)
    _limits(world)
    _expert_and_gate(world)
    _command(world)
    _trace(world)

    between(world)
    held = world.all_arrived(DEVICE)
    assert held["telemetry"]["upto"] > 0
    assert world.end(DEVICE, signal.SIGTERM) == 0
    until("it said goodbye", lambda: not world.online(DEVICE))
    assert world.end("hub") in {0, -signal.SIGTERM}  # the web server passes the signal on when all is closed
    assert not [line for line in [*world.log("hub"), *world.log(DEVICE)] if "exception" in line]


def _model(world: Any) -> dict[str, Any]:
    found: dict[str, Any] = world.reported(DEVICE).get("models", {}).get("digits", {})
    return found


def _desired_settings(world: Any) -> None:
    answer = world.http.patch(f"/devices/{DEVICE}/twin", json={"desired": {"settings": {"period_s": 0.3}}})
    assert answer.status_code == 200
    version = answer.json()["version"]
    word = until("verified", lambda: _state(world.progress(DEVICE, "settings.period_s"), "verified"))
    assert word["version"] >= version
    until("it is reported", lambda: world.reported(DEVICE)["settings"]["period_s"] == 0.3)
    world.http.patch(f"/devices/{DEVICE}/twin", json={"desired": {"settings": {"period_s": -1}}})
    word = until("refused", lambda: _state(world.progress(DEVICE, "settings.period_s"), "refused"))
    assert "period_s must be within" in word["reason"]
    assert world.reported(DEVICE)["settings"]["period_s"] == 0.3
    world.http.patch(f"/devices/{DEVICE}/twin", json={"desired": {"settings": {"period_s": 0.2}}})


def _state(row: dict[str, Any], state: str) -> dict[str, Any] | None:
    return row if row.get("state") == state else None


def _limits(world: Any) -> None:
    body = {"devices": [DEVICE], "limits": [{"metric": "cpu.load", "high": 120.0}], "watch_s": 60}
    number = world.http.post("/thresholds/rollouts", json=body).json()["id"]
    found = until("taken back", lambda: _state(world.get(f"/thresholds/rollouts/{number}") or {}, "rolled-back"))
    assert "beyond the site's hard limit 101.0" in found["reason"]
    twin = world.get(f"/devices/{DEVICE}/twin/name/thresholds")["state"]
    assert "delta" not in twin  # desired is again what the device never stopped to use
    assert [one["metric"] for one in world.reported(DEVICE, "thresholds")["limits"]] == ["memory.used"]


def _expert_and_gate(world: Any) -> None:
    gate = until("the gate is calibrated and in force", lambda: world.reported(DEVICE, "gates").get("digits"), 60)
    assert (gate["n"], gate["alpha"]) == (120, 0.1)
    assert gate["digest"] == world.reported(DEVICE)["models"]["digits"]["digest"]
    until("the gate is verified", lambda: _state(world.progress(DEVICE, "digits.alpha", "gates"), "verified"))
    rows = world.get("/escalations", device=DEVICE)
    answered = [row for row in rows if row["answer"] is not None]
    assert len(answered) >= 120
    assert {row["answer"] for row in answered} <= set("0123456789")
    until("answers are kept now", lambda: world.get(f"/devices/{DEVICE}/telemetry/digits/label"))


def _command(world: Any) -> None:
    before = world.reported(DEVICE)["models"]["digits"]["starts"]
    asked = world.http.post(f"/devices/{DEVICE}/commands", json={"verb": "restart", "target": "digits"})
    assert asked.status_code == 202
    done = until("the command succeeded", lambda: _state(world.get(f"/commands/{asked.json()['id']}"), "succeeded"))
    assert done["output"] == {"restarted": "digits"}
    until("the model started once more", lambda: world.reported(DEVICE)["models"]["digits"]["starts"] == before + 1)
    no = world.http.post(f"/devices/{DEVICE}/commands", json={"verb": "restart", "target": "the world"})
    refused = until("refused", lambda: _state(world.get(f"/commands/{no.json()['id']}"), "refused"))
    assert "this device has no 'restart the world'" in refused["text"]


def _trace(world: Any) -> None:
    """The alarm's trace, as the device drew it, leads through the audit trail to the diagnosis."""
    (alarm,) = until("the alarm", lambda: world.get("/alarms", device=DEVICE))
    lines = world.logged(DEVICE, "alarm.raised")
    assert alarm["trace_id"] in {line.get("trace_id") for line in lines}
    whole = {"alarm.raised", "incident.opened", "incident.diagnosed", "action.verified"}
    until("diagnosed", lambda: _kinds(world, alarm["trace_id"]) >= whole)
    found = world.get(f"/incidents/{alarm['incident']}")
    assert found["incident"]["diagnosis"]["cause"] == "memory-pressure"
    assert json.dumps(found["actions"]).count('"verified"') == 1


def _kinds(world: Any, trace: str) -> set[str]:
    return {row["kind"] for row in world.get("/audit", trace=trace)["rows"]}
