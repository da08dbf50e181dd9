"""Demo act f. Desk: an incident with its evidence, a playbook that a second person approves, verified in the twin."""

from __future__ import annotations

import os
import signal
from typing import Any

from cloud_hub.demo.acts_alarms import raised_alarm
from cloud_hub.demo.client import ActFailed, Client, until
from cloud_hub.demo.world import MODEL, World, now_us

PLAYBOOK = "restart-model"
ENDED = ("succeeded", "failed", "cancelled", "refused")


def desk(world: World) -> list[str]:
    """Stalls a model again: alarm, incident, diagnosis, a playbook, two people, verification in the twin."""
    device, start = world.camera, now_us()
    before = world.client.reported(device)["models"][MODEL]
    os.kill(int(before["pid"]), signal.SIGSTOP)
    alarm = until("the stalled model raises an alarm", lambda: raised_alarm(world, device, f"{MODEL}/age_s", start), 20)
    view = until("the incident is diagnosed", lambda: _diagnosed(world, alarm["incident"]), 20)
    run = _proposed(world, alarm["incident"], device)
    lines = [*_evidence(view), *_verdicts(run)]
    if run["run"]["state"] == "proposed":
        lines.append(_second_person(world, run["run"]["id"]))
    ended = until("the playbook ends", lambda: _ended(world, run["run"]["id"]), 60)
    after = world.client.reported(device)["models"][MODEL]
    if ended["run"]["state"] != "succeeded" or after["starts"] <= before["starts"]:
        raise ActFailed(f"the playbook {ended['run']['state']} {ended['run']['reason']}; the twin shows {after}")
    resolved = until("the incident is resolved", lambda: _resolved(world, alarm["incident"]), 30)
    took = (resolved["resolved_us"] - alarm["raised_us"]) / 1e6
    steps = ", ".join(f"{step['id']} {step['state']}" for step in ended["steps"])
    return [
        *lines,
        f"run: {steps}",
        f"twin: starts {before['starts']} -> {after['starts']}; incident resolved {took:.1f} s after the alarm",
    ]


def _diagnosed(world: World, incident: str) -> dict[str, Any] | None:
    view: dict[str, Any] = world.client.get(f"/incidents/{incident}")
    return view if view["incident"]["diagnosis"] else None


def _evidence(view: dict[str, Any]) -> list[str]:
    """The diagnosis with what it cites."""
    diagnosis = view["incident"]["diagnosis"]
    cites = list(dict.fromkeys(cite for claim in diagnosis.get("claims", []) for cite in claim["cites"]))
    cited = f", cites {', '.join(cites)}" if cites else ""
    return [f"incident {view['incident']['id'][:8]}: {diagnosis['cause']} by {diagnosis['author']}{cited}"]


def _proposed(world: World, incident: str, device: str) -> dict[str, Any]:
    """The run of the playbook; a single action that the diagnosis has proposed for the same makes way for it."""
    for action in world.client.get(f"/incidents/{incident}")["actions"]:
        if action["state"] == "proposed":
            world.client.call("POST", f"/actions/{action['id']}/decision", {"approve": False})
    body = {"playbook": PLAYBOOK, "parameters": {"device": device, "model": MODEL}, "incident": incident}
    view: dict[str, Any] = world.client.call("POST", "/playbook-runs", body)
    return view


def _verdicts(run: dict[str, Any]) -> list[str]:
    judged = [step for step in run["steps"] if step["verdict"]]
    text = "; ".join(f"{step['id']}: {step['verdict']['decision']} ({step['verdict']['rule']})" for step in judged)
    return [f"playbook {run['run']['playbook']}: {text}"]


def _second_person(world: World, run: str) -> str:
    """Nobody approves an own proposal: another token does."""
    path, body = f"/playbook-runs/{run}/decision", {"approve": True}
    try:
        world.client.call("POST", path, body)
    except ActFailed:
        token = world.client.call("POST", "/tokens", {"name": "second-person", "roles": ["operator"]})["token"]
        second = Client(world.client.base, token)
        second.call("POST", path, body)
        second.close()
        return "its proposer may not approve it (403); a second person did, once for all steps"
    raise ActFailed("the proposer could approve the own playbook")


def _ended(world: World, run: str) -> dict[str, Any] | None:
    view: dict[str, Any] = world.client.get(f"/playbook-runs/{run}")
    return view if view["run"]["state"] in ENDED else None


def _resolved(world: World, incident: str) -> dict[str, Any] | None:
    row: dict[str, Any] = world.client.get(f"/incidents/{incident}")["incident"]
    return row if row["state"] == "resolved" else None
