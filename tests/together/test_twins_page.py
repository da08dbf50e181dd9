"""Every line of docs/twins.md and docs/twins/fleet.md that a reader can paste, pasted."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import until

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "".join((DOCS / name).read_text("utf-8") for name in ("twins.md", "twins/fleet.md"))


def lines(page: str) -> list[str]:
    """The commands of all sh blocks, in order, without remarks; quotes and backslashes go over the end of a line."""
    found: list[str] = []
    for block in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S):
        pending = ""
        for line in block.splitlines():
            pending = f"{pending}\n{line}" if pending else line
            if pending.endswith("\\") or pending.count("'") % 2:
                continue
            found.append(pending.split("   #")[0].rstrip())
            pending = ""
    return found


def test_the_page_is_read_as_a_shell_reads_it() -> None:
    assert len(lines(PAGE)) > 25
    assert lines("```sh\na 'b\nc' \\\n d   # e\nf\n```\n") == ["a 'b\nc' \\\n d", "f"]


@pytest.mark.nightly
def test_every_line_can_be_pasted(build: Callable[[str], Any]) -> None:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    world.start_edge("press-3", world.camera())
    until("the device reports its models", lambda: world.reported("press-3").get("models"))
    for number in range(20):  # the page looks back at versions 12 and 17
        world.http.patch("/devices/press-3/twin", json={"desired": {"settings": {"period_s": 0.2 + number / 100}}})
    token = world.http.headers["authorization"].removeprefix("Bearer ")
    environment = os.environ | {
        "TIDEGATE_TOKEN": token, "TIDEGATE_URL": f"http://127.0.0.1:{world.rest}",
        "PATH": f"{Path(world.program('tidegate-hub')).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    shell = Shell(environment, f"127.0.0.1:{world.rest}", str(world.folder / "press-3.toml"))
    for line in lines(PAGE):
        if not line.startswith("export "):  # the token is there already
            shell.paste(line)
    assert shell.pasted > 25


class Shell:
    """Pastes lines one after another; each may use functions, variables and ids that came before."""

    def __init__(self, environment: dict[str, str], hub: str, config: str) -> None:
        self._environment, self._hub, self._config = environment, hub, config
        self._said: list[str] = []
        self._ids: dict[str, str] = {}
        self.pasted = 0

    def paste(self, line: str) -> None:
        """Run one line; what the hub or a command refuses fails the test."""
        line = line.replace("127.0.0.1:8080", self._hub).replace("edge.toml", self._config)
        line = line.replace("line-camera", "digits")
        kind = "jobs" if "/jobs/" in line else "command"
        line = re.sub(r"\bID\b", self._ids.get(kind, "ID"), line)
        if re.match(r"job=|api\(\)", line):
            self._said.append(line)
            return
        script = "\n".join([*self._said, line])
        made = subprocess.run(
            ["bash", "-c", script], env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        out = made.stdout + made.stderr
        stale = "--if-version 17" in line or 'If-Match: "17"' in line or line.endswith("/cancel") or "cancel" in line
        assert made.returncode in ({0, 6} if stale else {0}), f"{line}\n{out}"
        refused = re.search(r'"status":\s*(4\d\d|5\d\d)', made.stdout)
        assert not refused or (stale and refused[1] in {"409", "412"}), f"{line}\n{out}"
        if found := re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f-]{17}", made.stdout):
            self._ids["jobs" if "/jobs" in line else "command"] = found[0]
        self.pasted += 1
