"""`tidegate-hub alarm`: what it takes, and how it shows a device's words. tests/together calls it for real."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_hub import __main__
from cloud_hub.cli import alarm

ROW: dict[str, Any] = {
    "id": "a1", "raised_us": 1_800_000_000_000_000, "priority": "high", "device": "press-3", "metric": "cpu.load",
    "about": "rate", "kind": "high", "value": 2.5, "limit": 1.0, "life": "acknowledged", "acked_by": "anna",
    "verdict": "real", "comment": "fan",
}  # fmt: skip
EVIL = "\x1b[2J\x1b]0;owned\x07 \u202e fine"


def test_an_alarm_is_one_line() -> None:
    wanted = (
        "a1  2027-01-15 08:00:00Z  high      press-3  cpu.load rate high 2.5 (limit 1)  acknowledged by anna  real  fan"
    )
    assert alarm._line(ROW) == wanted
    bare = ROW | {"about": "", "acked_by": "", "verdict": "", "comment": "", "life": "normal"}
    assert alarm._line(bare).endswith("cpu.load high 2.5 (limit 1)  normal")


def test_nobodys_text_can_steer_the_terminal() -> None:
    rows = {"id": "s1", "method": "shelved", "device": "", "path": EVIL, "metric": "", "from_us": 0, "until_us": None,
            "actor": EVIL, "reason": EVIL}  # fmt: skip
    shown = alarm._line(ROW | {"comment": EVIL, "device": EVIL}) + alarm._suppression(rows)
    assert "until further notice" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_a_report_of_nothing_is_told_as_well() -> None:
    found: dict[str, Any] = {
        "since_us": 0, "until_us": 10**9, "alarms": 0, "per_day": 0.0, "pages": 0, "suppressed": 0, "peak": 0,
        "in_flood": 0.0, "top": [], "top_share": 0.0, "chattering": 0, "fleeting": 0, "standing": 0, "stale": 0,
        "unacknowledged": 0, "ack_median_s": None, "real": 0, "false_alarms": 0,
    }  # fmt: skip
    assert "nothing acknowledged" in alarm._report_text(found)
    top = {"device": EVIL, "metric": "cpu.load", "alarms": 3, "share": 0.5, "chattering": True}
    shown = alarm._report_text(found | {"top": [top], "ack_median_s": 12.4})
    assert "half of them within 12 s" in shown
    assert shown.endswith("cpu.load  chattering")
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shelve", "a1", "--reason", "x"], "--for"), (["shelve", "a1", "--for", "soon", "--reason", "x"], "soon"),
        (["verdict", "a1", "maybe"], "false-alarm"), (["suppress", "--reason", "x"], "--device"),
        (["suppress", "--device", "a", "--path", "b", "--reason", "x"], "not allowed"), (["nothing"], "nothing"),
    ],
)  # fmt: skip
def test_wrong_use_is_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main(["alarm", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_without_a_token_nothing_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["alarm", "list"]) == 78
    assert "TIDEGATE_TOKEN" in capsys.readouterr().err
