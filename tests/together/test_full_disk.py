"""A disk that is full, under a real agent and under a real hub: both go on, lose nothing in silence, and recover."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import until
from simulators.disks import beside, fill, on_small_disk, seen_by

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"
LIMIT = """
[[limits]]
metric = "outbox.waiting"
high = {high}
priority = "high"
"""


def disk_of(world: Any, name: str) -> Path:
    return seen_by(world.processes[name].pid, world.folder / name)


def telemetry(world: Any, stream: str = "telemetry") -> dict[str, Any]:
    """What the device holds: {accepted, at_hub}, by `tidegate-edge status`."""
    command = [world.program("tidegate-edge"), "status", "--json", "--config", str(world.folder / f"{DEVICE}.toml")]
    made = subprocess.run([*beside(world.processes[DEVICE].pid), *command], capture_output=True, timeout=30, check=True)
    found: dict[str, Any] = json.loads(made.stdout)
    return {**found["streams"][stream], "epoch": found["epoch"]}


def test_an_agent_on_a_full_disk_lets_alarms_through_and_recovers(build: Any) -> None:
    world = build("mosquitto")
    world.inside[DEVICE] = on_small_disk(world.folder / DEVICE, "24m")
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE, LIMIT.format(high=400.0))
    until("the device is online", lambda: world.online(DEVICE))
    world.kill("hub")
    state = disk_of(world, DEVICE)
    filler = fill(state)
    until("the agent meets the full disk", lambda: world.logged(DEVICE, "disk.full"), 40)
    until("an alarm is accepted all the same", lambda: world.logged(DEVICE, "alarm.raised"), 60)
    assert telemetry(world, "alarm")["accepted"] >= 1
    world.start_hub()  # still on the full disk: what it holds is sent, and deleting works
    until("the alarm is at the hub", lambda: world.get("/alarms", device=DEVICE), 40)
    before = until("telemetry is deleted here", lambda: telemetry(world)["at_hub"])
    until("and goes on", lambda: telemetry(world)["at_hub"] > before + 20, 40)
    assert world.processes[DEVICE].poll() is None
    filler.unlink()
    until("it notices the room", lambda: world.logged(DEVICE, "disk.room"), 30)
    assert (state / "reserve").stat().st_size > 1 << 20
    until("the twin says so", lambda: world.reported(DEVICE).get("stores", {}).get("disk") == "")
    promised = telemetry(world)
    epoch, wanted = promised["epoch"], promised["accepted"]
    held = until("all of it arrives", lambda: _held(world, epoch, wanted), 40)
    lost = sum(last - first + 1 for first, last, _ in held["lost"])
    assert held["rows"] + lost == held["upto"], "every number is there or counted"
    assert {reason for _, _, reason in held["lost"]} <= {"evicted"}


def _held(world: Any, epoch: str, wanted: int) -> Any:
    row = world.streams(DEVICE, epoch).get("telemetry", {"upto": 0})
    return row if row["upto"] >= wanted else None


def test_a_hub_on_a_full_disk_acknowledges_nothing_and_recovers(build: Any) -> None:
    world = build("mosquitto")
    world.inside["hub"] = on_small_disk(world.folder / "hub", "6m")
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    until("the device is online", lambda: world.online(DEVICE))

    until("rows are stored", lambda: telemetry(world)["at_hub"] > 20)
    filler = fill(disk_of(world, "hub"))
    until("the hub says so", lambda: world.logged("hub", "database.not_ready"), 60)
    stuck = telemetry(world)
    until("more is accepted", lambda: telemetry(world)["accepted"] > stuck["accepted"] + 30)
    assert telemetry(world)["at_hub"] == stuck["at_hub"]
    assert world.processes["hub"].poll() is None
    promised = telemetry(world)["accepted"]
    filler.unlink()
    until("all of it is acknowledged", lambda: telemetry(world)["at_hub"] >= promised, 60)
    assert not world.logged("hub", "ingest.refused")
