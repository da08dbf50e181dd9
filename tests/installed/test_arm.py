"""The agent with a model and a video as source on arm64, under qemu. Nightly; the first run makes the arm64 root."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.arm64 import REPOSITORY, Arm64, arm64_root
from simulators.brokers import until
from simulators.cameras import video

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]
MODEL = REPOSITORY / "cloud_hub/demo/assets/digits-edge"


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm64:
    return Arm64(arm64_root(), tmp_path_factory.mktemp("arm"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = video(tmp_path / "v.mkv", width=8, height=8)
    file = tmp_path / "edge.toml"
    file.write_text(
        f'[device]\nid = "arm-1"\nprofile = "generic-arm64"\nstate_dir = "{tmp_path}/state"\n'
        '[link]\ndiscover = false\naddress = "127.0.0.1:9"\n[[collectors]]\nkind = "host"\n'
        f'[[collectors]]\nkind = "video"\nname = "camera"\npath = "{path}"\nloop = true\n'
        'width = 8\nheight = 8\ncolor = "gray"\n'
        '[[collectors]]\nkind = "test_pattern"\nname = "pattern"\nperiod_s = 0.5\nwidth = 8\nheight = 8\n'
        f'[[models]]\nname = "digits"\nbundle = "{MODEL}"\nframes = "pattern"\n'
        f'[[models]]\nname = "film"\nbundle = "{MODEL}"\nframes = "camera"\n'
    )
    return file


def test_the_generic_profile_is_detected(arm: Arm64) -> None:
    assert arm.run("profile", "detect").startswith("generic-arm64  (machine: aarch64)")


def test_check_runs_the_model(arm: Arm64, config: Path) -> None:
    said = arm.run("check", "--config", str(config))
    assert "problem:" not in said, said
    assert "model 'digits'" not in said, said
    assert "well. Start it with" in said, said


@pytest.fixture
def log(arm: Arm64, config: Path) -> Iterator[Path]:
    """A running agent's log."""
    file = config.with_name("log")
    with file.open("wb") as stream:
        agent = subprocess.Popen(arm.command("run", "--config", str(config)), env=arm.environment, stderr=stream)
        yield file
        agent.terminate()
        assert agent.wait(60) == 0, file.read_text("utf-8")


def test_the_agent_runs_models_and_stores_their_answers(config: Path, log: Path) -> None:
    """Without a gate each frame is escalated, with what the model says to it."""
    seen: set[str] = set()

    def stored(*names: str) -> bool:
        time.sleep(1)
        seen.update(_newest(config.parent / "state" / "outbox.sqlite"))
        return seen >= set(names)

    until("metrics of the machine, and of the source", lambda: stored("cpu.load", "camera/fps"), 60)
    until("answers to the pattern", lambda: stored("digits answers", "digits/escalated"), 60)
    until("answers to the video", lambda: stored("film answers"), 60)
    assert "Traceback" not in log.read_text("utf-8")


def _newest(outbox: Path) -> list[str]:
    """Metrics in the outbox's newest rows, and the models that have answered."""
    query = "SELECT payload FROM rows WHERE stream = ? ORDER BY first DESC LIMIT 20"
    try:
        with sqlite3.connect(f"file:{outbox}?mode=ro", uri=True) as database:
            rows = [row[0] for stream in ("telemetry", "escalation") for row in database.execute(query, (stream,))]
    except sqlite3.OperationalError:  # not made yet
        return []
    items = [item for row in rows for item in json.loads(row)["items"]]
    return [item.get("metric") or f"{item['model']} answers" for item in items if item.get("metric") or item["label"]]
