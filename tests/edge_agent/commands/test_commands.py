"""Commands: one effect an id, whatever comes twice or crashes in between (W1)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from edge_agent.commands.service import MOST, REMEMBERED, Commands, Output, Progress, Work, take_args
from edge_agent.link.core.hub_time import BUILD_US, HubTime
from edge_agent.store.statestore import StateStore
from shared.protocol.messages import ENDED, CommandCancel, CommandRequest, CommandResult

LATER = 1_000


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


class Press:
    """A device with a store on disk and something that can be seen to happen."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "kept.sqlite"
        self.strokes = 0
        self.released = 0
        self.now_s = 0.0
        self.fault: Callable[[], None] = lambda: None
        self.boot()

    def boot(self) -> None:
        self.keep = StateStore(self._path)
        verbs = {
            ("press", "once"): self._stroke,
            ("diagnose", "x"): lambda _: {"y": 1.0},
            ("press", "long"): self._long,
        }
        self.commands = Commands(self.keep, verbs)

    def restart(self) -> None:
        self.keep.close()
        self.boot()

    def _stroke(self, request: CommandRequest) -> Output:
        self.strokes += 1
        self.fault()
        return {"strokes": float(self.strokes), "asked": str(request.args.get("why", ""))}

    def _long(self, request: CommandRequest) -> Work:
        take_args(request, "wait_s")
        try:
            self.strokes += 1
            for part in range(4):
                yield Progress(fraction=part / 4, text=f"part {part}", wait_s=float(request.args.get("wait_s", 0.0)))
                self.fault()
        finally:
            self.released += 1
        return {"strokes": float(self.strokes)}

    def ask(self, cid: str = "c1", target: str = "long", now: int = 1, **args: float) -> CommandResult:
        request = CommandRequest(id=cid, verb="press", target=target, expires_us=LATER, args=dict(args))
        return self.commands.handle_request(request, now, "synced")

    def step(self, after_s: float = 0.0) -> list[CommandResult]:
        self.now_s += after_s
        return self.commands.run_once(2, self.now_s)

    def cancel(self, cid: str = "c1") -> CommandResult:
        return self.commands.handle_cancel(CommandCancel(id=cid, expires_us=LATER), 3)

    def run(self, cid: str = "c1", verb: str = "press", now: int = 1, **changes: str) -> CommandResult:
        request = CommandRequest(id=cid, verb=verb, target=changes.get("target", "once"), expires_us=LATER)
        word = self.commands.handle_request(request, now, "unsynced" if changes.get("clock") else "synced")
        if word.state in ENDED:
            return word
        assert word.state == "accepted"
        (word,) = self.commands.run_once(now, 0.0)
        return word


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


@pytest.mark.parametrize("jump_s", [86_400, -86_400, 0])
@pytest.mark.parametrize(("late_s", "state"), [(-10, "accepted"), (10, "expired")])
def test_expiry_is_judged_by_the_hubs_time_wherever_the_devices_clock_jumps(
    tmp_path: Path, jump_s: int, late_s: int, state: str
) -> None:
    hub_us, heard_s = BUILD_US + 86_400_000_000, 500.0
    time = HubTime()
    time.set_hub_time(hub_us, heard_s)
    now_us = time.now_us(hub_us + jump_s * 1_000_000, heard_s + 60)  # a minute later
    request = CommandRequest(id="c1", verb="press", target="once", expires_us=hub_us + (60 - late_s) * 1_000_000)
    assert Press(tmp_path).commands.handle_request(request, now_us, "synced").state == state


def test_a_device_whose_clock_was_never_set_cannot_call_a_command_expired(press: Press) -> None:
    assert press.run(now=LATER + 1, clock="unsynced").state == "succeeded"


@pytest.mark.parametrize(("verb", "target"), [("reboot", "once"), ("press", "twice")])
def test_an_unknown_verb_is_refused_with_what_there_is(press: Press, verb: str, target: str) -> None:
    result = press.run(verb=verb, target=target)
    assert result.state == "refused"
    assert f"{verb} {target}" in result.text
    assert "diagnose x, press long, press once" in result.text
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
    keep = StateStore(tmp_path / "kept.sqlite")
    request = CommandRequest(id="c", verb="v", target="t", expires_us=9)
    assert "it has: none" in Commands(keep, {}).handle_request(request, 1, "synced").text
    keep.close()


def test_what_is_remembered_is_bounded_and_the_newest_stay(press: Press) -> None:
    for number in range(REMEMBERED + 5):
        press.run(f"c{number}", verb="diagnose", target="x", now=LATER + 1, clock="unsynced")
    kept = list(press.keep.get("commands"))
    assert kept == [f"c{number}" for number in range(5, REMEMBERED + 5)]


def test_what_may_still_come_again_is_not_forgotten(press: Press) -> None:
    assert press.run("first").output["strokes"] == 1.0
    for number in range(MOST - 1):
        assert press.commands.handle_cancel(CommandCancel(id=f"c{number}", expires_us=LATER), 1).state == "cancelled"
    assert press.run("first").output["strokes"] == 1.0
    full = press.ask("one more")
    assert (full.state, "that have not expired" in full.text) == ("refused", True)
    assert press.strokes == 1
    request = CommandRequest(id="later", verb="press", target="once", expires_us=LATER * 3)
    assert (
        press.commands.handle_request(request, LATER * 2, "synced").state == "accepted"
    )  # what holds no more makes room
    assert len(press.keep.get("commands")) == REMEMBERED


# -- long verbs ------------------------------------------------------------------------------------


def test_a_long_verb_goes_on_step_by_step_and_tells_its_progress(press: Press) -> None:
    assert press.ask().state == "accepted"
    seen = [word for _ in range(5) for word in press.step(1.0)]
    assert [(word.state, word.progress, word.text) for word in seen] == [
        ("running", 0.0, "part 0"), ("running", 0.25, "part 1"), ("running", 0.5, "part 2"),
        ("running", 0.75, "part 3"), ("succeeded", None, ""),
    ]  # fmt: skip
    assert (seen[-1].output, press.released, press.step()) == ({"strokes": 1.0}, 1, [])


def test_progress_is_told_at_most_twice_a_second_and_the_last_one_is_not_kept_back(press: Press) -> None:
    press.ask(wait_s=0.01)
    at = []
    for _ in range(30):
        at += [press.now_s for word in press.step(0.1) if word.state == "running"]
    assert len(at) >= 1
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(at))
    press.ask("c2", wait_s=60.0)
    (first,) = press.step()
    assert first.progress == 0.0
    assert press.step(0.1) == press.step(40.0) == []
    (second,) = press.step(20.0)
    assert second.progress == 0.25


def test_others_go_on_while_one_is_long(press: Press) -> None:
    press.ask(wait_s=5.0)
    press.step()
    press.ask("c2", target="once")
    (word,) = press.step()
    assert (word.id, word.state) == ("c2", "succeeded")
    assert press.ask("c1").state == "running"


def test_the_same_id_while_it_runs_is_told_how_far_it_is(press: Press) -> None:
    press.ask()
    press.step()
    again = press.ask()
    assert (again.state, again.progress) == ("running", 0.0)
    assert press.strokes == 1


def test_a_cancelled_verb_is_closed_and_stays_cancelled(press: Press) -> None:
    press.ask()
    press.step()
    word = press.cancel()
    assert (word.state, word.text, press.released) == ("cancelled", "part 0", 1)
    assert press.step(9.0) == []
    assert press.cancel() == press.ask() == word
    press.restart()
    assert press.ask() == word


def test_a_cancel_before_the_first_step_leaves_nothing_done(press: Press) -> None:
    press.ask()
    assert press.cancel().state == "cancelled"
    assert (press.step(), press.strokes) == ([], 0)


def test_a_cancel_of_what_was_never_heard_of_holds_for_what_comes_later(press: Press) -> None:
    assert press.cancel().state == "cancelled"
    assert press.ask().state == "cancelled"
    assert press.strokes == 0


def test_a_cancel_of_what_has_ended_is_told_how_it_ended(press: Press) -> None:
    done = press.run()
    assert press.cancel() == done


def test_a_verb_that_cannot_put_back_what_it_took_fails(press: Press) -> None:
    def stubborn(_request: CommandRequest) -> Work:
        try:
            yield Progress(fraction=0.5)
        finally:
            raise OSError("the valve is stuck")

    press.commands = Commands(press.keep, {("press", "long"): stubborn})
    press.ask()
    press.step()
    word = press.cancel()
    assert (word.state, "the valve is stuck" in word.text) == ("failed", True)


def test_a_long_verb_that_a_crash_interrupted_says_so(press: Press) -> None:
    press.ask()
    press.step()
    press.restart()
    assert (press.ask().state, press.ask().text) == ("failed", "interrupted by a restart")
    assert press.strokes == 1


def test_an_agent_that_ends_closes_its_verbs_and_says_so(press: Press) -> None:
    press.ask()
    press.step()
    (word,) = press.commands.stopped()
    assert (word.state, word.text, press.released) == ("failed", "interrupted by a restart", 1)
    press.restart()
    assert press.ask() == word


def test_an_agent_that_ends_is_not_kept_from_it_by_a_verb(press: Press) -> None:
    def stubborn(_request: CommandRequest) -> Work:
        try:
            yield Progress(fraction=0.5)
        finally:
            raise OSError("the valve is stuck")

    press.commands = Commands(press.keep, {("press", "long"): stubborn, ("press", "once"): lambda _: {}})
    press.ask()
    press.step()
    press.ask("c2", target="once")
    assert [(word.state, word.text[:11]) for word in press.commands.stopped()] == [
        ("failed", "when cancel"), ("failed", "interrupted"),
    ]  # fmt: skip
    assert press.commands.stopped() == []


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_fault_on_the_way_is_told(press: Press, error: type[Exception]) -> None:
    def broken() -> None:
        raise error("no such valve")

    press.fault = broken
    press.ask()
    press.step()
    (word,) = press.step(1.0)
    assert (word.state, "no such valve" in word.text) == ("failed", True)


@pytest.mark.parametrize("fraction", [-1.0, 7.0])
def test_a_fraction_beyond_its_range_is_brought_back(press: Press, fraction: float) -> None:
    def odd(_request: CommandRequest) -> Work:
        yield Progress(fraction=fraction)
        return {}

    press.commands = Commands(press.keep, {("press", "long"): odd})
    press.ask()
    (word,) = press.step()
    assert word.progress == min(max(fraction, 0.0), 1.0)


def test_an_argument_that_the_verb_does_not_take_is_refused(press: Press) -> None:
    press.ask(oops=1.0)
    (word,) = press.step()
    assert (word.state, word.text) == ("refused", "'press long' has no argument 'oops'; it takes: wait_s")
    assert press.strokes == 0
