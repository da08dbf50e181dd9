"""A disk that is full, under a real agent and under a real hub: both go on, lose nothing in silence, and recover."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import until
from simulators.disks import fill, on_small_disk, seen_by

from edge_agent.outbox import status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

DEVICE = "press-3"
LIMIT = """
[[limits]]
metric = "outbox.waiting"
high = {high}
priority = "high"
"""


def disk_of(world: Any, name: str) -> Path:
    return seen_by(world.processes[name].pid, world.folder / name)


def test_an_agent_on_a_full_disk_lets_alarms_through_and_recovers(build: Any) -> None:
    world = build("mosquitto")
    world.inside[DEVICE] = on_small_disk(world.folder / DEVICE, "12m")
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE, LIMIT.format(high=400.0))
    until("the device is online", lambda: world.online(DEVICE))
    world.kill("hub")
    state = disk_of(world, DEVICE)
    filler = fill(state)
    until("the agent meets the full disk", lambda: world.logged(DEVICE, "disk.full"), 40)
    fill(state)  # what it had set aside is gone too, as far as it is not used yet
    until("an alarm is accepted all the same", lambda: world.logged(DEVICE, "alarm.raised"), 60)
    assert status(state / "outbox.sqlite")["streams"]["alarm"]["accepted"] >= 1
    world.start_hub()  # still on the full disk: what it holds is sent, and deleting works
    until("the alarm is at the hub", lambda: world.get("/alarms", device=DEVICE), 40)
    before = until(
        "telemetry is deleted here", lambda: status(state / "outbox.sqlite")["streams"]["telemetry"]["at_hub"]
    )
    until("and goes on", lambda: status(state / "outbox.sqlite")["streams"]["telemetry"]["at_hub"] > before + 20, 40)
    assert world.processes[DEVICE].poll() is None
    filler.unlink()
    until("it notices the room", lambda: world.logged(DEVICE, "disk.room"), 30)
    assert (state / "reserve").stat().st_size > 1 << 20
    until("the twin says so", lambda: world.reported(DEVICE).get("stores", {}).get("disk") == "")
    promised = status(state / "outbox.sqlite")
    epoch, wanted = promised["epoch"], promised["streams"]["telemetry"]["accepted"]
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
    until("rows are stored", lambda: world.accepted(DEVICE)["streams"].get("telemetry", {"at_hub": 0})["at_hub"] > 20)
    filler = fill(disk_of(world, "hub"))
    until("the hub says so", lambda: world.logged("hub", "database.not_ready"), 60)
    stuck = world.accepted(DEVICE)["streams"]["telemetry"]
    until(
        "more is accepted", lambda: world.accepted(DEVICE)["streams"]["telemetry"]["accepted"] > stuck["accepted"] + 30
    )
    assert world.accepted(DEVICE)["streams"]["telemetry"]["at_hub"] == stuck["at_hub"]
    assert world.processes["hub"].poll() is None
    filler.unlink()
    promised = world.accepted(DEVICE)["streams"]["telemetry"]["accepted"]
    until("all of it is acknowledged", lambda: world.accepted(DEVICE)["streams"]["telemetry"]["at_hub"] >= promised, 60)
    assert not world.logged("hub", "ingest.refused")
