"""The lock of a state folder: one holder, named to the second one, and gone with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.cli.main import main
from edge_agent.store.outbox import status
from shared.errors import EXIT_CONFIG, ConfigError
from shared.process_lock import process_lock

CONFIG = """
[device]
id = "press-3"
profile = "x86-64"
state_dir = "{state}"
[link]
discover = false
address = "127.0.0.1:9"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "edge.toml"
    file.write_text(CONFIG.format(state=tmp_path / "state"), "utf-8")
    return file


@pytest.fixture
def running(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "edge_agent", "run", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"agent.started" not in (line := process.stderr.readline()):
            assert line, "the agent ended"
        yield process
        process.kill()


def test_the_second_agent_on_a_state_folder_ends_with_78_and_names_the_first(
    config: Path, running: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    before = status(config.parent / "state" / "outbox.sqlite")
    assert main(["run", "--config", str(config)]) == EXIT_CONFIG
    told = capsys.readouterr().err
    assert f"is in use by process {running.pid} since 20" in told
    assert f"run --config {config})" in told
    assert before["epoch"] == status(config.parent / "state" / "outbox.sqlite")["epoch"]


def test_a_killed_agent_leaves_no_lock_behind(config: Path, running: subprocess.Popen[bytes]) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait()
    with process_lock(config.parent / "state" / "agent.lock", "cure"):
        pass


def test_a_lock_names_its_holder_and_can_be_taken_again(tmp_path: Path) -> None:
    holder = rf"in use by process {os.getpid()} since .*\. Stop it"
    for _ in range(2):
        with process_lock(tmp_path / "lock", "Stop it"), pytest.raises(ConfigError, match=holder):
            process_lock(tmp_path / "lock", "Stop it").__enter__()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"pid": "x"}'])
def test_a_holder_whose_name_cannot_be_read_is_another_process(tmp_path: Path, content: bytes) -> None:
    with process_lock(tmp_path / "lock", "Stop it"):
        (tmp_path / "lock").write_bytes(content)
        with pytest.raises(ConfigError, match="in use by another process"):
            process_lock(tmp_path / "lock", "Stop it").__enter__()


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        process_lock(tmp_path / "none" / "lock", "Stop it").__enter__()
