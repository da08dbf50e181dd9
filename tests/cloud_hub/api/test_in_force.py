"""In force is what a device has said of itself, and nothing else: the command line and the counts of a learning job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from simulators.rest import RestHub, rest_hub
from sqlmodel import Session

from cloud_hub import __main__
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import LearnedSeries, Rollout, RolloutDevice
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.twins import service as twins
from shared.messages import Applied

NOW = 1_800_000_000_000_000


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestHub]:
    with rest_hub(tmp_path_factory.mktemp("rest")) as one:
        yield one


@pytest.fixture
def set_and_wait(hub: RestHub, tmp_path: Path) -> Callable[[str], int]:
    file = tmp_path / "token"
    file.write_text(hub.token, "utf-8")

    def run(change: str) -> int:
        where = ["--url", f"http://127.0.0.1:{hub.port}", "--token-file", str(file)]
        return __main__.main(["twin", "set", *where, "press-3", change, "--wait", "0.3"])

    return run


def says(hub: RestHub, path: str, version: int = 1 << 40) -> None:
    with hub.db.write("press-3") as session:
        word = Applied(shadow="", version=version, path=path, state="applied", reason="")
        twins.record_progress(session, "press-3", word, now_us())


def test_a_removal_is_in_force_once_the_device_has_spoken_of_it(
    hub: RestHub, set_and_wait: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    says(hub, "settings.log_level", version=0)  # of an older version
    assert set_and_wait("settings.log_level=null") == 5
    assert "no report from the device on: settings.log_level" in capsys.readouterr().err
    says(hub, "settings.log_level")
    assert set_and_wait("settings.log_level=null") == 0


def test_nothing_is_in_force_on_a_device_that_cannot_be_reached(
    hub: RestHub, set_and_wait: Callable[[str], int], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with hub.db.write("press-3") as session:
        body = b'{"state": {"reported": {"a": 1}}}'
        twins.handle_request(session, "press-3", "", "update", body, now_us(), actor="press-3", max_bytes=32768)
    assert set_and_wait("a=1") == 0
    state = hub.server.config.app.state
    monkeypatch.setattr(state, "hub", replace(state.hub, connected=lambda: False))
    assert set_and_wait("a=1") == 5
    assert "cannot be reached" in capsys.readouterr().err


def pushed(session: Session, device: str, state: str) -> None:
    session.add(LearnedSeries(learning="all", device=device, metric="cpu.load", limits={}, pushed={}, pushed_us=NOW))
    session.add(RolloutDevice(rollout="r", device=device, state=state, version=5, t_us=NOW))


def test_limits_of_a_learning_are_in_force_where_the_device_says_so(db: Database) -> None:
    with db.write() as session:
        session.add(Rollout(id="r", learning="all", state="confirmed", started_us=NOW, watch_s=1.0, max_alarms=1))
        for device, state in (("heard", "verified"), ("silent", "pushed"), ("late", "pushed"), ("stale", "pushed")):
            pushed(session, device, state)
        for device, version in (("late", 6), ("stale", 4)):
            word = Applied(shadow="thresholds", version=version, path="limits", state="verified", reason="")
            twins.record_progress(session, device, word, NOW)
    with db.read() as session:
        found = learning_registry.status_counts(session, "all", NOW, 3600.0)
    assert (found["pushed"], found["in_force"]) == (4, 2)
