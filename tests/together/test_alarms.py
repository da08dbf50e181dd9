"""Alarms of every kind from a real device to an operator at a command line, and what he makes of them back again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DEVICE = "press-3"
SITE = """
[[hard_alarm_rules.expressions]]
metric = "site.memory"
when = "memory.used > 0 and cpu.load >= 0"
priority = "critical"
"""
ALARM_RULES = {
    "no_data": [{"metric": "oil.temp", "after_s": 1}],
    "flat": [{"metric": "disk.used", "after_s": 1, "tolerance": 1000}],
    "rates": [{"span_s": 0.5, "limits": {"metric": "cpu.load", "high": -1e9}}],
}


@pytest.fixture
def world(build: Any) -> Any:
    made = build("mosquitto")
    made.broker.start()
    made.start_hub()
    made.start_edge(DEVICE, SITE)
    until("the device is online", lambda: made.online(DEVICE))
    return made


def tidegate(world: Any, *words: str) -> tuple[int, str]:
    """`tidegate-hub alarm ...` in another process, with a token in a file."""
    file = Path(world.folder) / "token"
    file.write_text(world.http.headers["authorization"].removeprefix("Bearer "), "utf-8")
    more = ["--url", f"http://127.0.0.1:{world.rest}", "--token-file", str(file)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE_")}
    command = [world.program("tidegate-hub"), "alarm", words[0], *more, *words[1:]]
    made = subprocess.run(command, check=False, capture_output=True, timeout=60, env=environment)
    return made.returncode, made.stdout.decode() + made.stderr.decode()


def told(world: Any, **query: str) -> dict[str, dict[str, Any]]:
    """Alarms at the hub by metric."""
    return {row["metric"]: row for row in world.get("/alarms", device=DEVICE, **query) or []}


def test_every_kind_of_alarm_and_every_word_about_it(world: Any) -> None:
    world.http.patch(f"/devices/{DEVICE}/twin/name/thresholds", json={"desired": {"alarm_rules": ALARM_RULES}})
    wanted = {"oil.temp": "no-data", "disk.used": "flat", "cpu.load": "rate", "site.memory": "expression"}
    rows = until("all are raised", lambda: found if len(found := told(world)) == 4 else None, 60)
    assert {metric: row["about"] for metric, row in rows.items()} == wanted
    assert {row["life"] for row in rows.values()} == {"unacknowledged"}
    assert rows["site.memory"]["priority"] == "critical"

    number = rows["oil.temp"]["id"]
    code, out = tidegate(world, "ack", number, "--comment", "the probe is ordered")
    assert (code, "acknowledged by tester" in out, "the probe is ordered" in out) == (0, True, True)
    line = until("it is in the device's log", lambda: world.logged(DEVICE, "alarm.acknowledged"))[0]
    assert (line["alarm"], line["actor"]) == (number, "tester")
    assert tidegate(world, "verdict", rows["disk.used"]["id"], "false-alarm")[0] == 0
    assert set(told(world, verdict="false-alarm")) == {"disk.used"}

    assert tidegate(world, "shelve", number, "--for", "1h", "--reason", "ordered")[0] == 0
    assert told(world)["oil.temp"]["life"] == "shelved"
    assert DEVICE in tidegate(world, "suppressions")[1]
    assert tidegate(world, "unshelve", number)[0] == 0
    until("it is back", lambda: told(world)["oil.temp"]["life"] == "acknowledged")
    assert tidegate(world, "unshelve", number) == (
        6,
        f"tidegate-hub: Not shelved: oil.temp of {DEVICE} is not shelved\n",
    )

    code, out = tidegate(world, "report", "--days", "1")
    assert (code, "alarms: 4" in out, "1 false" in out) == (0, True, True), out
    assert tidegate(world, "list", "--life", "unacknowledged")[1].count("\n") == 2
    assert tidegate(world, "show", "none")[0] == 4


def test_taking_rules_away_ends_their_alarms_but_not_the_sites(world: Any) -> None:
    path = f"/devices/{DEVICE}/twin/name/thresholds"
    world.http.patch(path, json={"desired": {"alarm_rules": ALARM_RULES}})
    until("all are raised", lambda: len(told(world, state="raised")) == 4, 60)
    world.http.patch(path, json={"desired": {"alarm_rules": {"flat": [{"metric": "disk.used"}]}}})
    until(
        "a bad set is refused",
        lambda: world.progress(DEVICE, "alarm_rules.flat", "thresholds").get("state") == "refused",
    )
    assert len(told(world, state="raised")) == 4, "the last good set stays"
    world.http.patch(path, json={"desired": {"alarm_rules": None}})
    until("theirs have ended", lambda: set(told(world, state="raised")) == {"site.memory"}, 60)


def test_in_a_maintenance_window_nobody_is_called(world: Any) -> None:
    until("the site's is raised", lambda: set(told(world)) == {"site.memory"}, 60)
    code, out = tidegate(world, "suppress", "--device", DEVICE, "--for", "1h", "--reason", "cleaning")
    assert code == 0, out
    world.http.patch(f"/devices/{DEVICE}/twin/name/thresholds", json={"desired": {"alarm_rules": ALARM_RULES}})
    rows = until("all are raised", lambda: found if len(found := told(world)) == 4 else None, 60)
    assert {row["life"] for row in rows.values()} == {"suppressed"}
    assert len(world.get("/incidents", members=True)) == 1
    assert tidegate(world, "unsuppress", out.split()[0])[0] == 0
    until("they come back", lambda: {row["life"] for row in told(world).values()} == {"unacknowledged"}, 60)
    incidents = world.get("/incidents", members=True)
    assert len({row["page"] for row in incidents}) == 1, "one machine, one call"
    assert len(incidents) == 4
