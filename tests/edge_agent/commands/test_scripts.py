"""Scripts that the device names: they run by name only, end with their command, and their exit code counts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_agent.commands.scripts import script_verbs
from edge_agent.commands.service import Commands
from edge_agent.store.disk import Disk
from edge_agent.store.statestore import StateStore
from shared.protocol.messages import CommandCancel, CommandRequest, CommandResult

NOW = 1_800_000_000_000_000


class Device:
    """The commands of a device with one script."""

    def __init__(self, folder: Path, body: str, mode: int = 0o755) -> None:
        self.file = folder / "clean.sh"
        self.file.write_text(f"#!/bin/sh\n{body}\n")
        self.file.chmod(mode)
        self.store = StateStore(folder / "kept.sqlite", Disk(folder))
        self.commands = Commands(self.store, script_verbs({"clean": str(self.file)}))

    def ask(self, target: str = "clean", **args: Any) -> CommandResult:
        request = CommandRequest(id="c1", verb="script", target=target, expires_us=NOW + 10**9, args=args)
        return self.commands.handle_request(request, NOW, "synced")

    def end(self) -> CommandResult:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            results = self.commands.run_once(NOW, time.monotonic())
            if results and results[-1].state not in ("accepted", "running"):
                return results[-1]
            time.sleep(0.01)
        raise AssertionError("the script did not end")


@pytest.fixture
def make(tmp_path: Path) -> Any:
    made: list[Device] = []

    def device(body: str, mode: int = 0o755) -> Device:
        made.append(Device(tmp_path, body, mode))
        return made[-1]

    yield device
    for one in made:
        one.store.close()


def test_a_script_runs_by_its_name(make: Any) -> None:
    device = make("echo cleaned $#")
    assert device.commands.names == ["script clean"]
    assert device.ask().state == "accepted"
    result = device.end()
    assert (result.state, dict(result.output)) == ("succeeded", {"code": 0.0, "output": "cleaned 0\n"})


@pytest.mark.parametrize("target", ["other", "../clean", "clean.sh", "/bin/sh", "clean; reboot", ""])
def test_no_other_file_runs(make: Any, target: str) -> None:
    assert make("echo x").ask(target).state == "refused"


def test_an_argument_is_refused(make: Any) -> None:
    device = make("echo x")
    device.ask(code="rm -rf /")
    assert device.end().state == "refused"


def test_a_file_that_is_not_executable_is_refused(make: Any) -> None:
    if os.geteuid() == 0:
        device = make("echo x")
        device.file.unlink()
    else:
        device = make("echo x", 0o644)
    device.ask()
    assert device.end().state == "refused"


def test_the_exit_code_counts(make: Any) -> None:
    device = make("echo broken lens; exit 3")
    device.ask()
    result = device.end()
    assert result.state == "failed"
    assert "code 3: broken lens" in result.text


def living(group: int) -> list[int]:
    """The processes of a group that are no zombies."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cancelled_script_is_killed_with_what_it_started(make: Any, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    device = make(f"sleep 600 & echo $$ > {file}; wait")
    device.ask()
    device.commands.run_once(NOW, time.monotonic())
    wait_for(lambda: file.exists() and file.read_text().strip())
    group = int(file.read_text())
    assert len(living(group)) == 2
    cancelled = device.commands.handle_cancel(CommandCancel(id="c1", expires_us=NOW + 10**9), NOW)
    assert cancelled.state == "cancelled"
    wait_for(lambda: not living(group))
