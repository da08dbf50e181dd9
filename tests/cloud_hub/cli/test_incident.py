"""`tidegate-hub incident`: how it shows groups, evidence and cases, and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulators import databases

from cloud_hub import __main__
from cloud_hub.cli import clean, incident
from cloud_hub.database.sessions import Database

EVIL = "\x1b[2J\x1b]0;owned\x07 \u202e fine"
ROW: dict[str, Any] = {
    "id": "i1", "opened_us": 1_800_000_000_000_000, "state": "open", "device": "switch-3", "subject": "up",
    "resolution": "", "resolved_by": "", "diagnosis": {"explanation": "no data"},
    "group": {"members": 41, "unresolved": 40},
}  # fmt: skip
MEMBER = {"id": "i2", "state": "open", "device": "press-7", "subject": "cpu", "leads": False,
          "joined_because": "depends on switch-3, which is silent"}  # fmt: skip
ACTION = {"verb": "restart", "target": EVIL, "state": "proposed", "policy": "needs approval"}
VIEW: dict[str, Any] = {
    "incident": ROW, "actions": [ACTION], "group": ROW["group"], "members": [MEMBER],
    "evidence": {"items": [{"id": "E1", "kind": "event", "summary": EVIL}]},
}  # fmt: skip


def test_a_group_is_a_line_and_shown_with_why_each_is_a_member() -> None:
    assert incident._line(ROW) == "i1  2027-01-15 08:00:00Z  open          switch-3  up  leads 41 (40 unresolved)"
    lines = incident._shown(VIEW)
    assert "  diagnosis: no data" in lines
    assert "    i2  open          press-7  cpu: depends on switch-3, which is silent" in lines


def test_nobodys_text_can_steer_the_terminal() -> None:
    shown = "".join(map(clean, incident._shown(VIEW))) + incident._line(ROW | {"device": EVIL})
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["merge", "a"], "--reason"), (["split", "--reason", "x"], "ID"), (["replay", "--since", "soon"], "soon"),
        (["replay", "--against", "nothing"], "recorded"), (["report", "--shift", "long"], "long"),
    ],
)  # fmt: skip
def test_wrong_use_is_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main(["incident", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("{}", ["--limits"], "no file of limits"), ("x", ["--prompt"], "--engine"), ("rules: 7", ["--rules"], "line 1"),
    ],
)  # fmt: skip
def test_a_replay_with_a_wrong_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, options: list[str], said: str
) -> None:
    (tmp_path / "hub.toml").write_text(f'state_dir = "{tmp_path}"\n')
    (tmp_path / "file").write_text(content)
    Database(databases.sqlite(tmp_path)).close()
    words = ["incident", "replay", "--config", str(tmp_path / "hub.toml"), *options, str(tmp_path / "file")]
    assert __main__.main(words) == 78
    assert said in capsys.readouterr().err
