"""A configuration, a job and people's hands on one real device, over real brokers, seen through REST alone."""

from __future__ import annotations

from typing import Any

import pytest
from simulators.brokers import Kind, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"
SLOW = "/configurations/slow"


@pytest.mark.parametrize("kind", ["mosquitto"])
def test_a_configuration_on_a_real_device(build: Any, kind: Kind) -> None:
    world = build(kind)
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    until("the device is online", lambda: world.online(DEVICE))

    def period(value: float) -> None:
        until(f"period {value:g}", lambda: world.reported(DEVICE).get("settings", {}).get("period_s") == value)

    def metric(name: str, value: int) -> None:
        until(f"{name} {value}", lambda: world.get(SLOW)["metrics"][name] == value)

    def ask(method: str, path: str, body: Any) -> Any:
        answer = world.http.request(method, path, json=body)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    everyone = {"target": "*", "content": {"": {"settings": {"period_s": 0.5}}}}
    ask("PUT", "/configurations/all", everyone)
    ask("PUT", SLOW, everyone | {"target": "tags.slow = true", "priority": 1} | _content(0.9))
    period(0.5)
    ask("PATCH", f"/devices/{DEVICE}/tags", {"slow": True})
    period(0.9)
    metric("in_force", 1)

    ask("PATCH", f"/devices/{DEVICE}/twin", {"desired": {"settings": {"period_s": 0.3}}})
    period(0.3)
    metric("conflicts", 1)
    world.kill("hub")
    world.restart("hub")
    until("the hub sees the broker", lambda: world.online(DEVICE))
    metric("conflicts", 1)
    owners = world.get(f"/devices/{DEVICE}/twin/owners")
    assert [(row["owner"], row["value"]) for row in owners["owners"]] == [("tester", 0.3)]
    assert [(row["configuration"], row["wanted"]) for row in owners["conflicts"]] == [("slow", 0.9)]
    period(0.3)

    assert ask("POST", f"/devices/{DEVICE}/twin/release", {"paths": ["settings"]}) == ["settings.period_s"]
    period(0.9)
    metric("applied", 1)
    ask("PATCH", f"/devices/{DEVICE}/tags", {"slow": None})
    period(0.5)
    metric("targeted", 0)

    job = ask("POST", "/jobs", {"kind": "twin", "query": "reported.settings.period_s = 0.5"} | _patch(0.7))
    until("the job's change is in force", lambda: _in_force(world, job["id"]))
    period(0.7)
    ask("DELETE", SLOW, None)
    assert world.get(SLOW) is None


def _content(period_s: float) -> dict[str, Any]:
    return {"content": {"": {"settings": {"period_s": period_s}}}}


def _patch(period_s: float) -> dict[str, Any]:
    return {"content": {"settings": {"period_s": period_s}}}


def _in_force(world: Any, job: str) -> bool:
    return [row["in_force"] for row in world.get(f"/jobs/{job}/devices") or []] == [True]
