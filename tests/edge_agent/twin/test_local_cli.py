"""`tidegate-edge twin` and the agent's file: the real store, the real link, and the command line itself."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.cli.main import main
from edge_agent.store.statestore import ANSWERS, SCHEMA_VERSION, StateStore
from edge_agent.twin import local_cli
from edge_agent.twin.sync import TwinSync
from shared.errors import TidegateError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "edge.toml"
    file.write_text(f'[device]\nid = "d"\nprofile = "x86-64"\nstate_dir = "{tmp_path}"\n', "utf-8")
    return file


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[StateStore]:
    store = StateStore(tmp_path / "kept.sqlite")
    yield store
    store.close()


class Agent:
    """What the agent does with its twin, without the rest of it."""

    def __init__(self, keep: StateStore) -> None:
        self.in_force: dict[str, Any] = {}
        self.sent: list[tuple[str, Any]] = []
        self.link = TwinSync(keep, lambda rest, message, trace="": bool(self.sent.append((rest, message))))
        self.link.handle("", "settings", self._settings, own={"period_s": 1.0})
        self.link.begin()

    def _settings(self, wanted: Any) -> Any:
        if wanted.get("period_s", 1.0) <= 0:
            raise ValueError("period_s must be above 0")
        self.in_force = wanted
        return wanted


def run(config: Path, *arguments: str) -> int:
    return main(["twin", *arguments, "--config", str(config)])


def test_a_wish_is_kept_while_the_agent_is_off_and_in_force_when_it_starts(
    config: Path, keep: StateStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "set", "settings.period_s=0.5", "--wait", "0") == local_cli.EXIT_WAITS == 75
    assert "It processes requests when it starts" in capsys.readouterr().err
    agent = Agent(keep)
    assert agent.in_force == {"period_s": 0.5}
    assert run(config, "get", "") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["desired"] == shown["reported"] == shown["pending"] == {"settings": {"period_s": 0.5}}
    again = Agent(keep)
    assert again.in_force == {"period_s": 0.5}, "and after every boot"


def test_a_running_agent_notices_acts_and_answers(
    config: Path, keep: StateStore, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = Agent(keep)
    agent.link.tick()

    def asked(*wanted: str) -> int:
        codes: list[int] = []
        asker = threading.Thread(target=lambda: codes.append(run(config, "set", *wanted, "--wait", "20")))
        asker.start()
        while asker.is_alive():
            agent.link.tick()
            asker.join(0.01)
        return codes[0]

    assert asked("settings.period_s=0.25") == 0
    assert agent.in_force == {"period_s": 0.25}
    assert asked("settings.period_s=-1", "colour.hue=red") == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "settings.period_s: verified"
    assert "colour.hue: refused: nothing on this device handles it; it handles settings" in told
    assert "settings.period_s: refused: period_s must be above 0" in told
    assert asked("settings=null") == 0
    assert agent.in_force == {"period_s": 1.0}, "back to the device's own"
    assert asked("settings=[null]") == 1, "what could never be a twin document is refused"
    assert not keep.changed()


@pytest.mark.parametrize("wrong", ["settings", "=1", "a..b=1", ".a=1", "a.b.c.d.e.f.g=1"])
def test_a_wrong_assignment_is_told_with_the_right_form(
    config: Path, keep: StateStore, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "set", wrong) == 2
    assert "PATH=JSON" in capsys.readouterr().err
    assert keep.requests() == []


def test_assignments_are_json_or_else_text() -> None:
    assert local_cli.parse_assignments(["a.b=1", "a.c=true", "d=[1, 2]", "e=info", 'f="1"', "g=null", "h=x=y"]) == {
        "a": {"b": 1, "c": True}, "d": [1, 2], "e": "info", "f": "1", "g": None, "h": "x=y"}  # fmt: skip
    with pytest.raises(ValueError, match="PATH=JSON"):
        local_cli.parse_assignments(["a=NaN"])


def test_without_an_agent_or_with_another_schema_nothing_is_made(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "get") == 1
    assert "has not run yet" in capsys.readouterr().err
    assert not (tmp_path / "kept.sqlite").exists()
    with sqlite3.connect(tmp_path / "kept.sqlite") as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    with pytest.raises(TidegateError, match="Start the agent once"):
        local_cli.submit_request(tmp_path / "kept.sqlite", "", {})
    (tmp_path / "kept.sqlite").write_bytes(b"no database at all, whatever its name may be")
    with pytest.raises(TidegateError, match="cannot be opened"):
        local_cli.twins(tmp_path / "kept.sqlite")


def test_get_names_the_documents_that_are_there(
    config: Path, keep: StateStore, capsys: pytest.CaptureFixture[str]
) -> None:
    Agent(keep).link.report("", {"x": 1})
    assert run(config, "get", "gates") == 1
    assert "there are ''" in capsys.readouterr().err
    assert run(config, "get") == 0
    assert json.loads(capsys.readouterr().out)[""]["reported"] == {"settings": {"period_s": 1.0}, "x": 1}


def test_the_store_of_an_older_agent_is_read(tmp_path: Path) -> None:
    file = tmp_path / "kept.sqlite"
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE kept (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        old = {
            "version": 7,
            "desired": {"settings": {"period_s": 0.5}},
            "reported": {"settings": {"period_s": 0.5}, "x": 1},
        }
        db.execute("INSERT INTO kept VALUES ('twin:', ?)", (json.dumps(old).encode(),))
        db.execute("PRAGMA user_version = 1")
    db.close()
    keep = StateStore(file)
    agent = Agent(keep)
    assert agent.in_force == {"period_s": 0.5}
    (document,) = agent.link._twin.documents.values()
    assert (document.version, document.pending()) == (7, {})
    assert document.stale({"settings": {"period_s": 0.5}, "x": 1}) == {"x": None}
    keep.close()
    with sqlite3.connect(file) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    db.close()


def test_old_answers_go(tmp_path: Path, keep: StateStore) -> None:
    for _ in range(ANSWERS + 20):
        number = local_cli.submit_request(tmp_path / "kept.sqlite", "", {"a": 1})
        keep.answer(number, [])
    with sqlite3.connect(tmp_path / "kept.sqlite") as db:
        assert db.execute("SELECT count(*) FROM requests").fetchone()[0] == ANSWERS
    db.close()
