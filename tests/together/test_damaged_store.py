"""A device whose files were damaged while it was off: it works at once, and the hub is told by event and twin."""

from __future__ import annotations

import random
from typing import Any

import pytest
from simulators.brokers import until
from simulators.disks import noise

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"


def test_damaged_stores_are_rebuilt_and_told(build: Any) -> None:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    until("the device is online", lambda: world.online(DEVICE))
    body = {"desired": {"settings": {"period_s": 0.15}}}
    assert world.http.patch(f"/devices/{DEVICE}/twin", json=body).status_code == 200
    until("it is in force", lambda: world.reported(DEVICE).get("settings", {}).get("period_s") == 0.15)
    old = world.accepted(DEVICE)["epoch"]
    world.end(DEVICE)  # a clean end: all of it is in the files themselves
    state = world.folder / DEVICE
    for name in ("outbox.sqlite", "kept.sqlite"):
        size = (state / name).stat().st_size
        for seed in range(size // 4096):
            noise(state / name, random.Random(seed))
    world.resume_edge(DEVICE)

    def told() -> bool:
        stores = world.reported(DEVICE).get("stores", {})
        return bool(stores.get("outbox.sqlite")) and bool(stores.get("kept.sqlite"))

    until("the twin tells", told, 45)
    assert {"outbox.sqlite.damaged", "kept.sqlite.damaged"} <= {file.name for file in state.iterdir()}
    status = world.accepted(DEVICE)
    assert status["epoch"] != old
    until(
        "it flows in another epoch",
        lambda: world.streams(DEVICE, status["epoch"]).get("telemetry", {"upto": 0})["upto"] > 5,
    )
    until("desired state is in force again", lambda: world.reported(DEVICE)["settings"]["period_s"] == 0.15)
    assert len(world.logged(DEVICE, "store.damaged")) == 2
    assert world.processes[DEVICE].poll() is None
    world.end(DEVICE)
    world.resume_edge(DEVICE)
    until("after the next start all is well", lambda: not told(), 45)
