"""Demo acts about connections: a. Twins, h. Outage and i. Scale."""

from __future__ import annotations

import signal
import textwrap
import time
from typing import Any

import httpx

from cloud_hub.demo.client import ActFailed, until
from cloud_hub.demo.world import DEPLOYMENT, MODEL, NAMESPACE, QUOTA, World

BROKER_AWAY_S = 10.0


def twins(world: World) -> list[str]:
    """Each device reports itself; a desired change is applied and reported."""
    lines = [_introduction(world, device) for device in world.devices]
    device = world.devices[-1]
    began = time.monotonic()
    _desire_period(world, device, 0.5)
    took = (time.monotonic() - began) * 1000
    progress = until("the progress is reported", lambda: _verified(world, device), 10)
    _desire_period(world, device, 1.0)
    return [*lines, f"{device}: desired period_s 0.5 -> {progress['state']}, reported in {took:.0f} ms, then reverted"]


def _introduction(world: World, device: str) -> str:
    def known() -> dict[str, Any] | None:
        found = world.client.reported(device)
        return found if found.get("link", {}).get("found_by") else None

    reported = until(f"{device} has reported itself", known, 15)
    profile, model = reported["profile"], reported.get("models", {}).get(MODEL, {})
    runs = f", {MODEL} {model['version']} on {model['provider']}" if model else ""
    missing = ", ".join(profile["missing"]) or "nothing"
    return f"{device}: {profile['name']}{runs}; broker by {reported['link']['found_by']}; missing: {missing}"


def _desire_period(world: World, device: str, period_s: float) -> None:
    world.client.call("PATCH", f"/devices/{device}/twin", {"desired": {"settings": {"period_s": period_s}}})

    def reported() -> bool:
        settings = world.client.reported(device).get("settings", {})
        return bool(settings.get("period_s") == period_s)

    until(f"period_s {period_s} is reported", reported, 10, 0.01)


def _verified(world: World, device: str) -> dict[str, Any] | None:
    rows = world.client.get(f"/devices/{device}/twin/progress")
    return next((row for row in rows if row["path"] == "settings.period_s" and row["state"] == "verified"), None)


def _accepted(world: World) -> dict[str, int]:
    """Items accepted by each device so far, over all streams."""
    return {
        device: sum(row["accepted"] for row in world.outbox(device)["streams"].values()) for device in world.devices
    }


def outage(world: World) -> list[str]:
    """Stops the broker for ten seconds, kills hub and agent with -9: no accepted item is lost or duplicated."""
    before = _accepted(world)
    world.end("broker")
    time.sleep(BROKER_AWAY_S)
    during = _accepted(world)
    idle = [device for device in world.devices if during[device] <= before[device]]
    if idle:
        raise ActFailed(f"{', '.join(idle)} stored nothing while the broker was down")
    world.start_broker()
    world.end("hub", signal.SIGKILL)
    world.start_hub()
    world.end(world.camera, signal.SIGKILL)
    world.start_device(world.camera)
    until("all devices are back", world.all_online, 60, 0.5)
    target = {device: world.outbox(device) for device in world.devices}
    until("everything accepted is at the hub", lambda: all(_arrived(world, target[d]) for d in world.devices), 60, 0.5)
    total = rows = 0
    for device in world.devices:
        counted, stored = _count(world, device, target[device]["epoch"])
        total, rows = total + counted, rows + stored
    stored_meanwhile = sum(during[d] - before[d] for d in world.devices)
    return [
        f"broker down for {BROKER_AWAY_S:.0f} s: {stored_meanwhile} items accepted meanwhile",
        f"then kill -9 of the hub, then of {world.camera}; all recovered",
        f"{total} items accepted, {total} at the hub; {rows} telemetry rows = distinct sequence numbers = highest",
    ]


def _streams(world: World, device: str, epoch: str) -> dict[str, dict[str, Any]]:
    rows = world.client.get(f"/devices/{device}/streams", count=True)
    return {row["stream"]: row for row in rows if row["epoch"] == epoch}


def _arrived(world: World, status: dict[str, Any]) -> bool:
    at_hub = _streams(world, status["device"], status["epoch"])
    return all(at_hub[stream]["upto"] >= row["accepted"] for stream, row in status["streams"].items())


def _count(world: World, device: str, epoch: str) -> tuple[int, int]:
    """(items at the hub, telemetry rows) of a device; raises ActFailed if any is lost or duplicated."""
    at_hub = _streams(world, device, epoch)
    telemetry = at_hub["telemetry"]
    if not telemetry["upto"] == telemetry["rows"] == telemetry["distinct"]:
        raise ActFailed(
            f"{device}: {telemetry['rows']} rows, {telemetry['distinct']} distinct, up to {telemetry['upto']}"
        )
    lost = [row["lost"] for row in at_hub.values() if row["lost"]]
    if lost:
        raise ActFailed(f"{device}: lost {lost}")
    return sum(row["upto"] for row in at_hub.values()), telemetry["rows"]


TARGET = "experts"


def scale(world: World) -> list[str]:
    """Shows that expert load made the autoscaler scale a simulated cloud up to its quota."""
    done = until("a scaling step was carried out", lambda: _steps(world, "done"), 30)
    refused = until("the cloud's quota refused a step", lambda: _steps(world, "refused"), 60)
    base = f"http://127.0.0.1:{world.cloud_port}"
    calls = httpx.get(f"{base}/log", timeout=5).json()["calls"]
    changes = [call for call in calls if call["method"] == "PATCH"]
    first, no = done[-1], refused[-1]
    token = (world.folder / "cloud.token").read_text("ascii").strip()
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{DEPLOYMENT}/scale"
    asked = httpx.get(base + path, headers={"Authorization": f"Bearer {token}"}, timeout=5).json()["spec"]["replicas"]
    if asked > QUOTA or not changes:
        raise ActFailed(f"the cloud has {asked} replicas after {len(changes)} changes; its quota is {QUOTA}")
    reason = textwrap.shorten(no["outcome_text"], 160, placeholder=" ...")
    why = world.client.get(f"/autoscale/targets/{TARGET}/explain")
    if not why["replayed"]:
        raise ActFailed("the stored inputs of the last decision do not lead to it again")
    return [
        f"{first['before']} -> {first['to']} replicas ({first['reason']})",
        f"then {no['before']} -> {no['to']}: refused by the simulated Kubernetes API: {reason}",
        f"{len(changes)} PATCH calls in the cloud's own log; it has {asked} replicas, quota {QUOTA}",
        f"`autoscale explain {TARGET}`: {textwrap.shorten(why['summary'][0], 160, placeholder=' ...')}",
    ]


def _steps(world: World, outcome: str) -> list[dict[str, Any]]:
    """Decisions that asked for a change and had this outcome; none before the first decision."""
    names = [row["name"] for row in world.client.get("/autoscale/targets")["targets"]]
    if TARGET not in names:
        return []
    rows = world.client.get(f"/autoscale/targets/{TARGET}/decisions?changes=true")
    return [row for row in rows if row["outcome"] == outcome]
