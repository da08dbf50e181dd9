"""Clocks that jump by a day, on the device and on the hub, while both are connected: nothing is lost or doubled.

Real processes, whose wall clock is moved under them; the monotonic clock goes on, as on a machine whose clock is set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from simulators import wall_clock
from simulators.brokers import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"
DAY_S = 86_400


def samples(world: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = world.get(f"/devices/{DEVICE}/telemetry/cpu.load", limit=100_000) or []
    return sorted(rows, key=lambda row: row["seq"])


def events(world: Any) -> list[dict[str, Any]]:
    """The device's events in the order of their numbers, whatever time they carry."""
    rows: list[dict[str, Any]] = world.get(f"/devices/{DEVICE}/events", limit=1000) or []
    return sorted(rows, key=lambda row: row["seq"])


def flows(world: Any, more: int = 10) -> None:
    before = len(samples(world))
    until("samples come", lambda: len(samples(world)) >= before + more, 40)


@pytest.mark.parametrize(("actor", "jump_s"), [
    (DEVICE, -DAY_S), ("hub", -DAY_S),
    pytest.param(DEVICE, DAY_S, marks=pytest.mark.nightly), pytest.param("hub", DAY_S, marks=pytest.mark.nightly),
])  # fmt: skip
def test_a_jump_of_a_day_changes_no_order_and_makes_no_storm(
    build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, actor: str, jump_s: int
) -> None:
    world = build("mosquitto")
    ahead = tmp_path / "ahead"
    world.broker.start()
    for name in ("hub", DEVICE):
        with monkeypatch.context() as patch:
            if name == actor:
                patch.setenv("PYTHONPATH", os.pathsep.join([wall_clock.FOLDER, os.environ.get("PYTHONPATH", "")]))
                patch.setenv("WALL_CLOCK_AHEAD", str(ahead))
            if name == "hub":
                world.start_hub()
            else:
                world.start_edge(DEVICE, link="heartbeat_s = 4.0")
    flows(world)
    before = len(samples(world))
    ahead.write_text(str(jump_s), "utf-8")
    flows(world, 25)
    ahead.write_text("0", "utf-8")
    flows(world)
    rows = samples(world)
    seqs = [row["seq"] for row in rows]
    assert len(seqs) == len(set(seqs)), "something came twice"
    jumps = [after["t_us"] - before["t_us"] for before, after in zip(rows[before - 1 :], rows[before:], strict=False)]
    moved = [jump for jump in jumps if abs(jump) > DAY_S / 2 * 1e6]
    assert len(moved) == (2 if actor == DEVICE else 0), "the device's clock was moved there and back"
    assert len(world.logged(DEVICE, "link.up")) == 1
    assert not world.logged(DEVICE, "link.down")
    assert len(world.logged("hub", "device.birth")) <= 3, "no storm of births"
    assert not world.logged("hub", "loop.failed")
    world.all_arrived(DEVICE)
    told = [row["fields"]["jump_s"] for row in events(world) if row["source"] == "clock"]
    assert [round(one / DAY_S) for one in told] == ([jump_s / DAY_S, -jump_s / DAY_S] if actor == DEVICE else [])
    assert world.reported(DEVICE)["clock"]["quality"] in {"synced", "unsynced"}
