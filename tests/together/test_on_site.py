"""Two writers of one desired state, over a real broker: a person at the device while the hub is away, and the hub."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from simulators.brokers import until

from edge_agent.twin.local_cli import EXIT_WAITS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"


def desire(world: Any, **settings: Any) -> None:
    assert world.http.patch(f"/devices/{DEVICE}/twin", json={"desired": {"settings": settings}}).status_code == 200


def desired(world: Any) -> dict[str, Any]:
    twin = world.get(f"/devices/{DEVICE}/twin") or {}
    found: dict[str, Any] = twin.get("state", {}).get("desired", {}).get("settings", {})
    return found


def here(world: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.on_site(DEVICE, "get", "")[1])
    return found


def test_a_person_on_site_and_the_hub_both_change_settings(build: Any) -> None:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    until("online", lambda: world.online(DEVICE))

    desire(world, period_s=0.3)
    until("in force", lambda: world.reported(DEVICE).get("settings", {}).get("period_s") == 0.3)
    assert world.on_site(DEVICE, "set", "settings.period_s=0.4") == (0, "settings.period_s: verified\n")
    until("the hub desires it too", lambda: desired(world) == {"period_s": 0.4})
    assert "pending" not in here(world)

    world.kill("hub")
    world.kill("broker")
    assert world.on_site(DEVICE, "set", "settings.period_s=0.5", "settings.log_level=warning")[0] == 0
    assert here(world)["reported"]["settings"] == {"period_s": 0.5, "log_level": "warning"}
    assert here(world)["pending"] == {"settings": {"period_s": 0.5, "log_level": "warning"}}
    code, told = world.on_site(DEVICE, "set", "settings.period_s=-1")
    assert (code, "must be within" in told) == (1, True)

    assert world.end(DEVICE, signal.SIGKILL) == -signal.SIGKILL
    assert world.on_site(DEVICE, "set", "settings.log_level=error", "--wait", "0")[0] == EXIT_WAITS
    world.restart(DEVICE)
    until("the wish of before the start is in force", lambda: here(world)["reported"].get("settings", {}) == {
        "period_s": 0.5, "log_level": "error"})  # fmt: skip

    world.kill(DEVICE)
    world.restart("broker")
    world.restart("hub")
    desire(world, period_s=0.6)
    world.restart(DEVICE)
    both = {"period_s": 0.6, "log_level": "error"}
    until("merged: the hub's where both changed, else either's", lambda: desired(world) == both)
    until("reported", lambda: world.reported(DEVICE).get("settings") == both)
    word = until("told", lambda: world.progress(DEVICE, "settings.period_s"))
    assert word["reason"] == "changed here and at the hub: the hub's value counts, not 0.5"

    world.http.patch(f"/devices/{DEVICE}/twin", json={"desired": {"settings": None}})
    own = {"period_s": 0.2, "log_level": "info"}
    until("back to the file's own", lambda: world.reported(DEVICE).get("settings") == own)
    assert "settings" not in here(world)["desired"]
