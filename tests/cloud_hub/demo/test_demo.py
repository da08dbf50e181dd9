"""The demo's play on a machine that is busy: what cannot run here is skipped and said so, what fails is not."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cloud_hub.demo import acts_alarms, acts_frames, play
from cloud_hub.demo.client import ActFailed, ActLate, ActSkipped, busy
from cloud_hub.demo.view import Entry


class Stage:
    """A world without processes."""

    devices = ("line-1",)
    worker = "line-1"

    def __init__(self, started: Exception | None = None) -> None:
        self.started, self.frames = started, [1.0]

    def start(self) -> None:
        if self.started is not None:
            raise self.started

    def check_alive(self) -> None: ...

    def show_frames(self, brightness: float) -> None:
        self.frames.append(brightness)


def late(_world: Any) -> list[str]:
    raise ActLate("the alarm is raised: not within 16 s")


def wrong(_world: Any) -> list[str]:
    raise ActFailed("2 rows are lost")


def played(
    monkeypatch: pytest.MonkeyPatch, load: float, *acts: Any, stage: Stage | None = None
) -> tuple[str, Any, str]:
    """(the failed act, state and last line of each, what was printed)."""
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(play, "ACTS", tuple((f"{letter}. Act", act) for letter, act in zip("abc", acts, strict=False)))
    entries, out = [Entry("start"), *(Entry(title) for title, _ in play.ACTS)], io.StringIO()
    failed = play._play(stage or Stage(), Console(file=out), entries)  # type: ignore[arg-type]
    return failed, [(entry.state, entry.lines[-1] if entry.lines else "") for entry in entries[1:]], out.getvalue()


def test_an_act_that_is_late_on_a_busy_machine_is_skipped_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, ((first, why), second), said = played(monkeypatch, 9.0, late, lambda _world: ["fine"])
    assert (failed, first, second) == ("", "skipped", ("shown", "fine"))
    assert "cannot run here: this machine is busy (load 9.0 on 2 processors): the alarm is raised" in why
    assert "a. Act: skipped" in said


@pytest.mark.parametrize(("load", "act"), [(1.5, late), (9.0, wrong)], ids=["not busy", "not late"])
def test_what_fails_is_no_matter_of_the_machine(monkeypatch: pytest.MonkeyPatch, load: float, act: Any) -> None:
    failed, ((state, _), rest), _ = played(monkeypatch, load, act, lambda _world: ["fine"])
    assert (failed, state, rest) == ("a. Act", "failed", ("waiting", ""))


def test_without_a_start_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, _, _ = played(monkeypatch, 9.0, late, stage=Stage(ActLate("no hub: not within 30 s")))
    assert failed == "start"


def test_what_could_be_shown_of_a_skipped_act_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(_world: Any) -> list[str]:
        raise ActSkipped("the live alarm", ["the replay"])

    _, ((state, last),), said = played(monkeypatch, 1.0, part)
    assert (state, last) == ("skipped", "cannot run here: the live alarm")
    assert "the replay" in said


def test_the_replay_is_shown_where_the_processor_is_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts_alarms, "until", late)
    monkeypatch.setattr(acts_alarms.weeks, "load", list)
    monkeypatch.setattr(acts_alarms, "until", lambda *_: late(None))
    with pytest.raises(ActSkipped, match="at its limit already"):
        acts_alarms.thresholds(Stage())  # type: ignore[arg-type]


def test_the_light_comes_back_when_an_act_in_the_dark_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    monkeypatch.setattr(acts_frames, "gate_in_force", lambda _world: None)
    with pytest.raises(ActSkipped, match="act b was not shown"):
        acts_frames.drift(stage)  # type: ignore[arg-type]
    monkeypatch.setattr(acts_frames, "gate_in_force", lambda _world: object())
    monkeypatch.setattr(acts_frames, "_in_the_dark", lambda *_: late(None))
    with pytest.raises(ActLate):
        acts_frames.drift(stage)  # type: ignore[arg-type]
    assert stage.frames == [1.0, acts_frames.DARK, 1.0]


def test_busy_is_more_work_than_processors() -> None:
    assert [bool(busy(load, 2)) for load in (0.0, 2.0, 2.1, 14.0)] == [False, False, True, True]
