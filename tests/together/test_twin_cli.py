"""`tidegate-hub twin ...` as a person uses it: another process, a token in a file, a real device behind the hub."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import until


@pytest.fixture
def twin(build: Callable[[str], Any]) -> Callable[..., tuple[int, str, str]]:
    """Run one `tidegate-hub twin` against a hub with one device."""
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    world.start_edge("press-1")
    until("the device reports its settings", lambda: world.reported("press-1").get("settings"))
    token = world.http.headers["authorization"].removeprefix("Bearer ")
    file = Path(world.folder) / "token"
    file.write_text(token, "utf-8")

    def run(*words: str) -> tuple[int, str, str]:
        more = ["--url", f"http://127.0.0.1:{world.rest}", "--token-file", str(file)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE_")}
        command = [world.program("tidegate-hub"), "twin", words[0], *more, *words[1:]]
        made = subprocess.run(command, check=False, capture_output=True, timeout=40, env=environment)
        return made.returncode, made.stdout.decode(), made.stderr.decode()

    return run


def test_a_person_changes_looks_searches_and_looks_back(twin: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = twin("set", "press-1", "settings.period_s=0.3", "settings.log_level=debug", "--wait", "10")
    assert (code, out.splitlines()[-1]) == (0, "in force")
    first = int(out.split()[1])

    code, out, _ = twin("get", "press-1")
    settings = json.loads(out)["state"]["reported"]["settings"]
    assert (code, settings["period_s"], settings["log_level"]) == (0, 0.3, "debug")

    code, out, err = twin("set", "press-1", "settings.period_s=never", "--wait", "10")
    assert code == 1
    assert "refused" in out

    code, out, err = twin("set", "press-1", "settings.period_s=0.4", "--if-version", str(first))
    assert (code, "Precondition failed" in err) == (6, True)

    code, out, _ = twin("query", "SELECT id, reported.settings.log_level AS level FROM devices")
    assert (code, json.loads(out)) == (0, {"id": "press-1", "level": "debug"})
    code, _, err = twin("query", "SELECT id FROM devices WHERE tags.site ==")
    assert code == 2
    assert "^" in err

    code, out, _ = twin("diff", "press-1", "--old", str(first - 1), "--new", str(first))
    assert code == 0
    assert "desired.settings.period_s: null -> 0.3" in out.splitlines()
    code, out, _ = twin("history", "press-1", "--limit", "3")
    assert code == 0
    assert "tester" in out

    assert twin("get", "press-9")[0] == 4
    assert twin("set", "press-1", "nonsense")[0] == 2
