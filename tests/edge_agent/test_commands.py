"""Commands: one effect an id, whatever comes twice or crashes in between (W1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.commands import REMEMBERED, Commands, Output, top_processes
from edge_agent.keep import Keep
from shared.messages import CommandRequest, CommandResult

LATER = 1_000


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


class Press:
    """A device with a store on disk and something that can be seen to happen."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "kept.sqlite"
        self.strokes = 0
        self.fault: Callable[[], None] = lambda: None
        self.boot()

    def boot(self) -> None:
        self.keep = Keep(self._path)
        self.commands = Commands(self.keep, {("press", "once"): self._stroke, ("diagnose", "x"): lambda _: {"y": 1.0}})

    def restart(self) -> None:
        self.keep.close()
        self.boot()

    def _stroke(self, request: CommandRequest) -> Output:
        self.strokes += 1
        self.fault()
        return {"strokes": float(self.strokes), "asked": str(request.args.get("why", ""))}

    def run(self, cid: str = "c1", verb: str = "press", now: int = 1, **changes: str) -> CommandResult:
        request = CommandRequest(id=cid, verb=verb, target=changes.get("target", "once"), expires_us=LATER)
        return self.commands.run(request, now, "unsynced" if changes.get("clock") else "synced")


@pytest.fixture
def press(tmp_path: Path) -> Press:
    return Press(tmp_path)


def test_a_command_is_carried_out_once_and_its_first_result_given_again(press: Press) -> None:
    first = press.run()
    assert (first.state, first.output["strokes"]) == ("succeeded", 1.0)
    assert press.run(now=5) == first
    press.restart()
    assert press.run(now=LATER + 9) == first
    assert press.strokes == 1
    assert press.run("c2").output["strokes"] == 2.0


def test_a_command_that_a_crash_interrupted_is_not_repeated(press: Press) -> None:
    def cut() -> None:
        raise PowerCut

    press.fault = cut
    with pytest.raises(PowerCut):
        press.run()
    press.fault = lambda: None
    press.restart()
    result = press.run()
    assert (result.state, result.text) == ("failed", "interrupted by a restart")
    assert press.strokes == 1


def test_an_expired_command_is_told_so_and_not_done(press: Press) -> None:
    assert press.run(now=LATER + 1).state == "expired"
    assert press.run(now=1).state == "expired", "the first result again"
    assert press.run("c2", now=LATER).state == "succeeded"
    assert press.strokes == 1


def test_a_device_whose_clock_was_never_set_cannot_call_a_command_expired(press: Press) -> None:
    assert press.run(now=LATER + 1, clock="unsynced").state == "succeeded"


@pytest.mark.parametrize(("verb", "target"), [("reboot", "once"), ("press", "twice")])
def test_an_unknown_verb_is_refused_with_what_there_is(press: Press, verb: str, target: str) -> None:
    result = press.run(verb=verb, target=target)
    assert result.state == "refused"
    assert f"{verb} {target}" in result.text
    assert "diagnose x, press once" in result.text
    assert press.strokes == 0


def test_a_value_error_refuses_and_says_why(press: Press) -> None:
    def no() -> None:
        raise ValueError("the guard is open")

    press.fault = no
    result = press.run()
    assert (result.state, result.text) == ("refused", "the guard is open")
    press.restart()
    assert press.run() == result
    assert press.strokes == 1


def test_any_other_fault_is_told_at_once_as_failed(press: Press) -> None:
    def broken() -> None:
        raise OSError("no such valve")

    press.fault = broken
    result = press.run()
    assert result.state == "failed"
    assert "no such valve" in result.text
    assert press.run() == result
    assert press.strokes == 1


def test_a_device_without_verbs_says_so(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "kept.sqlite")
    request = CommandRequest(id="c", verb="v", target="t", expires_us=9)
    assert "it has: none" in Commands(keep, {}).run(request, 1, "synced").text
    keep.close()


def test_what_is_remembered_is_bounded_and_the_newest_stay(press: Press) -> None:
    for number in range(REMEMBERED + 5):
        press.run(f"c{number}", verb="diagnose", target="x")
    kept = list(press.keep.get("commands"))
    assert kept == [f"c{number}" for number in range(5, REMEMBERED + 5)]


def test_the_top_processes_are_a_handful_with_their_load() -> None:
    output = top_processes(CommandRequest(id="c", verb="diagnose", target="processes", expires_us=9))
    assert 1 <= len(output) <= 5
    assert all("(pid " in name and float(load) >= 0 for name, load in output.items())
