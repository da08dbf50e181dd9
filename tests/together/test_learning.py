"""The closed loop over a real broker: history, fit, backtest, canary, the rest; and a bad push undone by itself."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import numpy as np
import pytest
from simulators import histories
from simulators.brokers import until

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device
from cloud_hub.twins.core.owners import LEARNING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DEVICES = ["press-1", "press-2", "press-3"]
EARLY_US = 3 * 3600 * 1_000_000
"""The made history ends so long ago: what the devices measure themselves is no part of the backtest's quiet."""


def history(world: Any, device: str, metrics: list[str], level: float, days: float, period_s: float) -> None:
    """Calm measurements of a device, as if it had been here for long."""
    db = Database(world.database or f"sqlite:///{world.folder / 'hub' / 'hub.sqlite'}")
    now = time.time_ns() // 1000
    for n, metric in enumerate(metrics):
        times, values = histories.course(days, period_s, n, now - EARLY_US)
        histories.store(db, device, metric, times, (values - 50) / 50 + level)
    db.close()


def limits(world: Any, device: str) -> Any:
    return (
        (world.get(f"/devices/{device}/twin/name/thresholds") or {}).get("state", {}).get("desired", {}).get("limits")
    )


def rollout(world: Any, name: str, after: str = "") -> Any:
    rows = world.get("/thresholds/rollouts", learning=name) or []
    return rows[0] if rows and rows[0]["id"] != after else None


def put(world: Any, name: str, **policy: Any) -> None:
    body = {"target": "*", "policy": {"train_days": 4, "backtest_days": 0.5, "canary": 0.34} | policy}
    answer = world.http.put(f"/learning-jobs/{name}", json=body)
    assert answer.status_code in {200, 201}, answer.text


def ended(world: Any, number: str) -> Any:
    found = world.get(f"/thresholds/rollouts/{number}")
    return found if found["state"] in {"confirmed", "rolled-back"} else None


def test_from_history_to_every_device_and_a_bad_push_undone_by_itself(build: Any) -> None:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    rest = f'rest = "http://127.0.0.1:{world.rest}"'
    for device in DEVICES:
        world.start_edge(device, link=rest)
    for device in DEVICES:
        until(f"{device} is online", lambda device=device: world.online(device))
        history(world, device, ["memory.used"], 2.0, 5, 300)
        history(world, device, ["memory.used"], 2.0, 0.003, 1)  # so its delays are a few seconds

    # Learned from history in which memory.used was far below what it is: every device would alarm at once.
    put(world, "bad", metrics=["memory.used"], max_alarms=0, max_backtest=1e6, watch_s=60)
    bad = until("the bad rollout begins", lambda: rollout(world, "bad"))
    assert bad["canaries"] == 1
    found = until("it ends", lambda: ended(world, bad["id"]), 60)
    assert found["state"] == "rolled-back", found
    assert found["reason"].startswith("alarms raised: ")
    states = {row["device"]: row["state"] for row in world.get(f"/thresholds/rollouts/{bad['id']}/devices")}
    (canary,) = [device for device, state in states.items() if state == "restored"]
    assert sorted(states.values()) == ["restored", "waiting", "waiting"]
    until("the canary has what it had", lambda: world.reported(canary, "thresholds").get("limits") == [])
    assert [limits(world, device) for device in DEVICES] == [None, None, None]
    until("its alarm is cleared", lambda: all(row["state"] == "cleared" for row in world.get("/alarms")))
    world.http.delete("/learning-jobs/bad").raise_for_status()

    # Learned so long ago that nobody should trust it: told as stale, and kept in force.
    old = {"metric": "disk.used", "high": 1e9, "source": "learned", "fitted_us": 1, "stale_s": 60.0}
    imported = world.http.post("/limits", json={"devices": {canary: [old]}})
    assert imported.status_code == 200, imported.text
    until("it is told", lambda: world.reported(canary, "thresholds").get("stale") == ["disk.used"])
    assert [row["metric"] for row in world.reported(canary, "thresholds")["limits"]] == ["disk.used"]
    patch = world.http.patch(f"/devices/{canary}/twin/name/thresholds", json={"desired": {"limits": None}})
    assert patch.status_code == 200, patch.text
    until("no longer", lambda: world.reported(canary, "thresholds").get("stale") == [])

    # Wide enough for what is: it goes to the canary, then to the rest, by itself, above 4 KB and so by reference.
    metrics = [f"agent/{name}" for name in ("a", "b", "c", "d", "e", "f", "g", "h")]
    for device in DEVICES:
        history(world, device, metrics, 50.0, 5, 300)
    tell(world, metrics)
    put(world, "good", metrics=metrics, max_alarms=0, watch_s=1)
    good = until("the good rollout begins", lambda: rollout(world, "good"))
    assert good["backtest"]["devices"] == 3
    assert good["backtest"]["per_device_week"] <= 7
    end = until("it ends", lambda: ended(world, good["id"]), 60)
    assert end["state"] == "confirmed", end
    for device in DEVICES:
        wish = limits(world, device)
        assert set(wish) == {"digest", "size", "path"}
        until("it is in force", lambda device=device, wish=wish: in_force(world, device) == wish)
        until("it is verified", lambda d=device: verified(world, d))
        owners = world.get(f"/devices/{device}/twin/owners", name="thresholds")["owners"]
        assert {row["owner"] for row in owners} == {f"{LEARNING}good"}
    shown = world.get("/learning-jobs/good")
    assert shown["standing"] == {"series": 24, "fitted": 24, "pushed": 24, "in_force": 24, "stale": 0}

    # Without the hub, after a restart, the file on the device's disk is in force.
    device = DEVICES[0]
    wish = limits(world, device)
    world.kill("hub")
    world.kill(device)
    world.resume_edge(device)
    until("it has started anew", lambda: len(world.logged(device, "agent.started")) == 2)
    until("it says so itself", lambda: on_device(world, device).get("limits") == wish)
    world.restart("hub")
    until("it is online again", lambda: world.online(device))
    until("it is in force again", lambda: in_force(world, device) == wish)

    # Out into a file and in again: the learning job goes on to own what is just as it put it there.
    shown = hub(world, "learning", "show", "good")
    assert "series: 24, fitted 24, pushed 24, in force 24, stale 0" in shown
    file = world.folder / "limits.toml"
    assert "3 devices, 24 limits" in hub(world, "limits", "export", str(file), "--source", "learned")
    assert "24 limits of 3 devices would be desired" in hub(world, "limits", "import", str(file), "--dry-run")
    assert "24 limits of 3 devices are desired" in hub(world, "limits", "import", str(file))
    until("all are online again", lambda: all(map(world.online, DEVICES)))
    tell(world, metrics)
    world.http.post("/learning-jobs/good/refit").raise_for_status()
    again = until("another rollout begins", lambda: rollout(world, "good", good["id"]))
    assert until("it ends", lambda: ended(world, again["id"]), 60)["state"] == "confirmed"
    states = {row["state"] for row in world.get(f"/thresholds/rollouts/{again['id']}/devices")}
    assert states == {"verified"}


def hub(world: Any, *arguments: str) -> str:
    """`tidegate-hub ...` as a person calls it."""
    token = world.http.headers["authorization"].removeprefix("Bearer ")
    made = subprocess.run(
        [world.program("tidegate-hub"), *arguments, "--url", f"http://127.0.0.1:{world.rest}"],
        capture_output=True, timeout=60, check=False, env=os.environ | {"TIDEGATE_TOKEN": token},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr.decode()
    return made.stdout.decode()


def tell(world: Any, metrics: list[str]) -> None:
    """These metrics stand in the devices' births at the hub."""
    db = Database(world.database or f"sqlite:///{world.folder / 'hub' / 'hub.sqlite'}")
    with db.write() as session:
        for device in DEVICES:
            row = session.get_one(Device, device)
            row.metrics = [*row.metrics, *({"name": metric, "kind": "gauge"} for metric in metrics)]
            session.add(row)
    db.close()


def on_device(world: Any, device: str) -> Any:
    """What the agent reports, as it stands in its own store."""
    code, text = world.on_site(device, "get", "thresholds")
    return json.loads(text).get("reported", {}) if code == 0 else {}


def verified(world: Any, device: str) -> bool:
    return bool(world.progress(device, "limits.digest", "thresholds").get("state") == "verified")


def in_force(world: Any, device: str) -> Any:
    return world.reported(device, "thresholds").get("limits")


def test_a_fault_that_lasts_seventeen_minutes_does_not_become_normal(build: Any) -> None:
    """A learning job of a metric that stands at one value in a high alarm: nothing is pushed, and the alarm stands."""
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    world.start_edge("press-1", '\n[[limits]]\nmetric = "memory.used"\nhigh = 0.1\npriority = "high"\n')
    (alarm,) = until("the alarm is raised", lambda: world.get("/alarms", device="press-1"))
    db = Database(world.database or f"sqlite:///{world.folder / 'hub' / 'hub.sqlite'}")
    times = time.time_ns() // 1000 - np.arange(1000, 0, -1) * 1_000_000
    histories.store(db, "press-1", "memory.used", times, np.full(1000, 100.0))
    db.close()

    answer = world.http.put("/learning-jobs/all", json={"target": "*", "policy": {"metrics": ["memory.used"]}})
    assert answer.status_code == 201, answer.text
    until("it was fitted", lambda: world.get("/learning-jobs/all")["learning"]["reason"])
    shown = hub(world, "learning", "show", "all")
    assert "no series could be learned: memory.used of press-1: memory.used has " in shown
    assert "limits need 3 days" in shown
    assert "in alarms that nobody judged false are not learned from" in shown
    assert rollout(world, "all") is None
    assert limits(world, "press-1") is None
    (after,) = world.get("/alarms", device="press-1")
    assert (after["id"], after["state"], after["priority"]) == (alarm["id"], "raised", "high")
