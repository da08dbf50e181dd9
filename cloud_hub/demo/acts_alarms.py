"""Demo acts about alarms: d. Thresholds, e. Incidents and g. Undo."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from cloud_hub.demo import weeks
from cloud_hub.demo.client import ActFailed, ActLate, ActSkipped, busy, until
from cloud_hub.demo.world import MODEL, World, burn, now_us

BURN_S = 8.0


def raised_alarm(world: World, device: str, metric: str, since_us: int, state: str = "") -> dict[str, Any] | None:
    """The newest alarm of a metric since then, or None."""
    rows = world.client.get("/alarms", device=device, state=state)
    alarms = [row for row in rows if row["metric"] == metric and row["received_us"] >= since_us]
    return alarms[0] if alarms else None


def replay(rows: Sequence[weeks.Row]) -> list[str]:
    """The results on the recorded weeks, summed over the series."""
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        chosen = [row for row in rows if row.method == method]
        alarms, false = sum(r.alarms for r in chosen), sum(r.false_alarms for r in chosen)
        hit, windows = sum(r.hit for r in chosen), sum(r.windows for r in chosen)
        lines.append(f"{method}: {alarms} alarms, {false} false, {hit} of {windows} known anomalies found")
    return lines


def thresholds(world: World) -> list[str]:
    """Replays recorded weeks, then raises and clears a live alarm on a device."""
    lines = [f"replay of recorded server weeks: {line}" for line in replay(weeks.compare(weeks.load()))]
    device = world.worker
    try:
        until("no alarm of cpu.load is raised", lambda: not raised_alarm(world, device, "cpu.load", 0, "raised"), 40)
    except ActLate as error:
        reason = "the live alarm: this machine's processor is at its limit already (end other work on it)"
        raise ActSkipped(reason, lines) from error
    try:
        return [*lines, *_live(world, device)]
    except ActLate as error:
        if reason := busy(os.getloadavg()[0], os.cpu_count() or 1):
            raise ActSkipped(f"the live alarm: this machine is busy ({reason}): {error}", lines) from error
        raise


def _live(world: World, device: str) -> list[str]:
    """Raises an alarm by CPU load, and waits until it clears."""
    start = now_us()
    burners = burn(BURN_S)
    try:
        alarm = until("the live alarm is raised", lambda: raised_alarm(world, device, "cpu.load", start), BURN_S + 8)
        until("the live alarm clears", lambda: raised_alarm(world, device, "cpu.load", start, "cleared"), 40)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    incident = world.client.get(f"/incidents/{alarm['incident']}")["incident"]
    latency = (alarm["received_us"] - alarm["raised_us"]) / 1000
    diagnosis = incident["diagnosis"] or {"explanation": "not diagnosed before it cleared"}
    return [
        f"live: cpu.load {alarm['value']:.0f} % > {alarm['limit']:.0f} % raised on {device}, at the hub in "
        f"{latency:.0f} ms, cleared by itself",
        f"diagnosis: {diagnosis['explanation'][:110]}",
    ]


EXPECTED = (
    "alarm.raised", "incident.opened", "incident.diagnosed", "action.approved", "action.executing", "command.sent",
    "command.succeeded", "action.executed", "action.verified", "incident.resolved",
)  # fmt: skip


def incidents(world: World) -> list[str]:
    """Stalls a model: alarm, incident, diagnosis, action, command, verification in the twin, resolution."""
    device, start = world.camera, now_us()
    before = world.client.reported(device)["models"][MODEL]
    os.kill(int(before["pid"]), signal.SIGSTOP)
    metric = f"{MODEL}/age_s"
    alarm = until("the stalled model raises an alarm", lambda: raised_alarm(world, device, metric, start), 20)

    def resolved() -> dict[str, Any] | None:
        incident: dict[str, Any] = world.client.get(f"/incidents/{alarm['incident']}")
        return incident if incident["incident"]["state"] == "resolved" else None

    view = until("the incident is resolved", resolved, 40)
    after = world.client.reported(device)["models"][MODEL]
    if after["starts"] <= before["starts"] or after["state"] != "running":
        raise ActFailed(f"the twin shows {after}")
    trail = world.client.get("/audit", trace=alarm["trace_id"], verify=True)
    kinds = [row["kind"] for row in reversed(trail["rows"])]
    missing = [kind for kind in EXPECTED if kind not in kinds]
    if missing or trail["broken_at"] is not None:
        raise ActFailed(f"the audit trail lacks {missing}, broken at {trail['broken_at']}")
    incident, action = view["incident"], view["actions"][-1]
    took = (incident["resolved_us"] - alarm["raised_us"]) / 1e6
    author = incident["diagnosis"]["author"]
    return [
        f"inference process stopped with SIGSTOP; alarm {alarm['metric']} {alarm['value']:.1f} s",
        f"diagnosis by {author}: {incident['diagnosis']['cause']} ({incident['diagnosis']['confidence']:.0%})",
        f"{action['type']} {action['detail']}: policy '{action['policy']}'; twin: starts {before['starts']} -> "
        f"{after['starts']}",
        f"resolved {took:.1f} s after the alarm; {len(kinds)} audit rows under one trace {alarm['trace_id'][:8]}..., "
        "chain holds",
    ]


def _limits(world: World, device: str) -> list[dict[str, Any]]:
    limits: list[dict[str, Any]] = world.client.reported(device, "thresholds").get("limits", [])
    return limits


def undo(world: World) -> list[str]:
    """Rolls out a bad threshold to one canary; it is rolled back automatically."""
    device = world.canary
    before = _limits(world, device)
    bad = {"metric": "memory.used", "high": 0.5}
    rollout = world.client.call(
        "POST", "/thresholds/rollouts",
        {"devices": [device], "limits": [bad], "watch_s": 60, "max_alarms": 0, "override": "the demo's drill"},
    )  # fmt: skip

    def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = world.client.get(f"/thresholds/rollouts/{rollout['id']}")
        return state if state["state"] != "watching" else None

    end = until("the rollout ends", ended, 30)
    if end["state"] != "rolled-back":
        raise ActFailed(f"the rollout was {end['state']}")
    until(
        "the old limits are back", lambda: world.client.reported(device, "thresholds").get("limits", []) == before, 20
    )
    until(
        "the alarm of the bad limit clears",
        lambda: raised_alarm(world, device, "memory.used", rollout["started_us"], "cleared"), 20,
    )  # fmt: skip
    took = (end["ended_us"] - end["started_us"]) / 1e6
    others = [d for d in world.devices if d != device]
    return [
        f"memory.used > 0.5 % pushed to {device} only ({', '.join(others) or 'no other'} untouched)",
        f"rolled back automatically after {took:.1f} s: {end['reason']}",
        "the device reports its old limits again and the alarm cleared",
    ]
