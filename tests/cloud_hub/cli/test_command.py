"""`tidegate-hub command`: what it takes, and how it shows a device's words. tests/together calls it for real."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_hub import __main__
from cloud_hub.cli import command, times

ROW: dict[str, Any] = {
    "id": "c1", "device": "press-3", "verb": "diagnose", "target": "processes", "state": "running", "progress": 0.25,
    "text": "watched 1 of 4 s", "output": {}, "done_us": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("3d", 259200)]
)  # fmt: skip
def test_times_are_written_as_people_do(text: str, seconds: float) -> None:
    assert times.seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "pair"),
    [("a=1", ("a", 1.0)), ("a=-2.5", ("a", -2.5)), ("a=b=c", ("a", "b=c")), ("a=", ("a", "")), ("a=nan", ("a", "nan"))],
)
def test_arguments_are_numbers_where_they_look_so(text: str, pair: tuple[str, str | float]) -> None:
    assert command._pair(text) == pair


@pytest.mark.parametrize(
    "arguments",
    [["--arg", "x"], ["--arg", "=1"], ["--life", "soon"], ["--life", "-1s"], ["--life", "2w"], ["--nonsense"]],
)
def test_wrong_use_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main(["command", "send", "press-3", "restart", "digits", *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_without_a_token_nothing_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["command", "list", "press-3"]) == 78
    assert "TIDEGATE_TOKEN" in capsys.readouterr().err


def test_progress_is_a_bar_and_the_devices_words() -> None:
    assert command._line(ROW) == "running    25% #####                watched 1 of 4 s"
    assert command._line(ROW | {"progress": None, "state": "sent", "text": ""}).rstrip() == "sent"


def test_progress_is_not_shown_after_the_end() -> None:
    ended = ROW | {"progress": 0.5, "state": "succeeded", "text": "watched 2 of 2 s", "done_us": 5}
    assert command._line(ended) == "succeeded watched 2 of 2 s"


def test_a_devices_text_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07 \u202e fine"
    command._print(ROW | {"text": evil, "output": {evil: evil}}, as_json=False)
    shown = capsys.readouterr().out
    assert "fine" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


@pytest.mark.parametrize(
    ("state", "code"), [("succeeded", 0), ("failed", 1), ("refused", 1), ("cancelled", 1), ("expired", 5)]
)
def test_the_exit_code_tells_the_end(state: str, code: int) -> None:
    assert command._code(ROW | {"state": state}) == code
