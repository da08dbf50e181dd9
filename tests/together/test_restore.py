"""A hub is lost and comes back from yesterday's backup: twins converge, and what it lacks is counted, not hidden."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest
from simulators.brokers import until
from simulators.postgres import postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"


def hub(world: Any, *words: str) -> subprocess.CompletedProcess[str]:
    """`tidegate-hub ...` with the world's configuration."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE_")}
    command = [world.program("tidegate-hub"), *words, "--config", str(world.folder / "hub.toml")]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)


def desire(world: Any, period_s: float) -> None:
    """Desired state, as far as in force."""
    body = {"desired": {"settings": {"period_s": period_s}}}
    assert world.http.patch(f"/devices/{DEVICE}/twin", json=body).status_code == 200
    until("it is in force", lambda: world.reported(DEVICE).get("settings", {}).get("period_s") == period_s)


def upto(world: Any, epoch: str) -> int:
    return int(world.streams(DEVICE, epoch).get("telemetry", {"upto": 0})["upto"])


def test_a_hub_that_was_lost_comes_back_from_a_backup_made_while_it_ran(build: Any) -> None:
    _lost_and_back(build("mosquitto"))


@pytest.mark.nightly
def test_the_same_on_postgresql(build: Any) -> None:
    with postgres() as server, server.database() as url:
        _lost_and_back(build("mosquitto", url))


def _lost_and_back(world: Any) -> None:
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    until("the device is online", lambda: world.online(DEVICE))
    epoch, out = world.accepted(DEVICE)["epoch"], world.folder / "hub.tar"
    desire(world, 0.15)
    until("telemetry flows", lambda: upto(world, epoch) > 50)
    before = upto(world, epoch)
    saved = hub(world, "backup", "--out", str(out))
    assert saved.returncode == 0, saved.stderr
    assert hub(world, "backup", "--out", str(out)).returncode == 1, "it never overwrites"
    refused = hub(world, "restore", str(out), "--force")
    assert (refused.returncode, "is in use by process" in refused.stderr) == (78, True)
    assert "tidegate-hub serve" in refused.stderr, "it names the hub that runs"
    assert "Stop it first" in refused.stderr
    desire(world, 0.1)  # after the backup: this will be lost with the hub
    after = upto(world, epoch)
    until("telemetry flows", lambda: upto(world, epoch) > after + 50)

    world.kill("hub")
    acked = world.accepted(DEVICE)["streams"]["telemetry"]["at_hub"]
    shutil.rmtree(world.folder / "hub")
    force = ["--force"] if world.database else []  # the tables are still there: dumped aside, and replaced
    restored = hub(world, "restore", str(out), *force)
    assert restored.returncode == 0, restored.stderr
    world.start_hub()

    until("the device notices another life", lambda: world.reported(DEVICE).get("settings", {}).get("period_s") == 0.15)
    twin = world.get(f"/devices/{DEVICE}/twin")
    assert twin["state"]["desired"]["settings"] == {"period_s": 0.15}, "T1: the hub's wish of then is in force again"
    assert twin["state"]["reported"]["settings"]["period_s"] == 0.15
    until("all that the device still had is here", lambda: upto(world, epoch) > acked)
    promised = world.accepted(DEVICE)["streams"]["telemetry"]["accepted"]
    until("and what it accepts now", lambda: upto(world, epoch) >= promised)
    held = world.streams(DEVICE, epoch)["telemetry"]
    lost = [entry for entry in held["lost"] if entry[2] == "hub-restored"]
    assert held["lost"] == lost, "nothing is missing for any other reason"
    assert len(lost) == 1
    first, last, _ = lost[0]
    assert before < first <= after, "from the backup on"
    assert last >= acked, "to the last word of the lost hub, and no further than the device had deleted"
    assert held["rows"] == held["distinct"] == held["upto"] - (last - first + 1)
    assert world.get("/audit", verify=True)["broken_at"] is None
    assert [row["kind"] for row in world.get("/audit", kind="hub.restored")["rows"]] == ["hub.restored"]
