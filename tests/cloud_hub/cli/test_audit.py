"""tidegate-hub audit: head, verify, search and export; and the options of tokens."""

from __future__ import annotations

import argparse
import csv
import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators import databases
from sqlalchemy import text

from cloud_hub import __main__
from cloud_hub.access import tokens
from cloud_hub.audit import trail
from cloud_hub.cli.times import instant
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database

DAY = 86_400_000_000
NOW = 1_793_491_200_000_000  # 2026-11-01


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Database]]:
    file = tmp_path / "hub.toml"
    file.write_text(f"state_dir = '{tmp_path}'\n", "utf-8")
    db = Database(databases.sqlite(tmp_path))
    with db.write() as session:
        for n in range(4):
            actor = "=cmd()" if n == 3 else "anna"
            trail.add(session, NOW + n * DAY, actor, "kind.x", "s\x1b[2J", device="press-3", number=n, text="尺寸")
    yield str(file), db
    db.close()


def run(hub: tuple[str, Database], *arguments: str) -> int:
    return __main__.main(["audit", arguments[0], "--config", hub[0], *arguments[1:]])


def test_a_chain_that_holds(hub: tuple[str, Database], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(hub, "head") == 0
    head = capsys.readouterr().out.strip()
    assert head.startswith("4:")
    assert run(hub, "verify", "--head", head) == 0
    assert capsys.readouterr().out == f"holds up to {head}\n"


@pytest.mark.parametrize(("statement", "row"), [
    ("UPDATE audit SET actor = 'bob' WHERE seq = 2", 2), ("DELETE FROM audit WHERE seq = 2", 3),
    ("DELETE FROM audit WHERE seq > 2", 4),
])  # fmt: skip
def test_a_broken_chain_is_told_by_exit_code_and_row(
    hub: tuple[str, Database], capsys: pytest.CaptureFixture[str], statement: str, row: int
) -> None:
    run(hub, "head")
    head = capsys.readouterr().out.strip()
    with hub[1].write() as session:
        triggers = ("no_update", "no_delete", "no_replace", "at_the_end")
        for one in (*(f"DROP TRIGGER audit_{name}" for name in triggers), statement):
            session.connection().execute(text(one))
    assert run(hub, "verify", "--head", head) == 1
    assert f"broken at row {row}:" in capsys.readouterr().out


def test_a_head_written_down_before_the_first_row_holds(hub: tuple[str, Database]) -> None:
    assert run(hub, "verify", "--head", f"0:{trail.GENESIS}") == 0
    with pytest.raises(SystemExit):
        run(hub, "verify", "--head", "4")


def test_search_shows_the_newest_first_and_no_steering_of_the_terminal(
    hub: tuple[str, Database], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(hub, "search", "--since", "2026-11-02", "--until", "2026-11-04", "--actor", "anna", "--kind", "kind") == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [["3", "2026-11-03 00:00:00Z"], ["2", "2026-11-02 00:00:00Z"]]
    assert "\x1b" not in lines[0]
    assert run(hub, "search", "--json", "--limit", "1") == 0
    assert json.loads(capsys.readouterr().out)["seq"] == 4


def test_export_as_lines_of_json(hub: tuple[str, Database], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(hub, "export", "--since", "2026-11-02T00:00:00Z", "--device", "press-3") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["seq"], row["detail"]["text"]) for row in rows] == [(2, "尺寸"), (3, "尺寸"), (4, "尺寸")]
    with hub[1].read() as session:
        assert rows == list(trail.export(session, trail.AuditFilter(since_us=NOW + DAY)))


def test_export_as_csv_into_a_new_file_for_its_owner_alone(hub: tuple[str, Database], tmp_path: Path) -> None:
    out = tmp_path / "trail.csv"
    assert run(hub, "export", "--format", "csv", "--out", str(out)) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["actor"] for row in rows] == ["anna", "anna", "anna", "'=cmd()"]  # no formula for a spreadsheet
    assert json.loads(rows[0]["detail"]) == {"number": 0, "text": "尺寸"}
    assert run(hub, "export", "--out", str(out)) == 78
    assert len(out.read_text("utf-8").splitlines()) == 5


def test_times_as_people_write_them() -> None:
    assert instant("2026-11-01") == instant("2026-11-01T00:00:00Z") == instant("2026-11-01T08:00+08:00") == NOW
    assert abs(instant("2d") - (time.time_ns() // 1000 - 2 * DAY)) < DAY
    assert abs(instant("48h") - instant("2d")) < DAY
    for bad in ("yesterday", "", "-1d", "2026-13-01"):
        with pytest.raises(argparse.ArgumentTypeError):
            instant(bad)


@pytest.mark.parametrize(("life", "days"), [("12h", 0.5), ("90d", 90), ("never", None), (None, 90)])
def test_a_token_with_roles_scope_and_life(
    hub: tuple[str, Database], capsys: pytest.CaptureFixture[str], life: str | None, days: float | None
) -> None:
    command = ["token", "create", "--config", hub[0], "--name", "anna", "--role", "auditor", "--role", "operator"]
    command += ["--scope", "acme/a", "--scope", "acme/b"]
    assert __main__.main([*command, *(["--life", life] if life else [])]) == 0
    with hub[1].read() as session:
        row = tokens.find(session, capsys.readouterr().out.strip(), now_us())
    assert (row.role, row.scope) == ("operator auditor", ["acme/a", "acme/b"])
    assert (row.expires_us and row.expires_us - row.created_us) == (days and days * DAY)


@pytest.mark.parametrize("life", ["0d", "90", "-1d", "x"])
def test_what_is_no_life(hub: tuple[str, Database], life: str) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["token", "create", "--config", hub[0], "--name", "anna", f"--life={life}"])


def test_a_scope_that_is_none_is_told(hub: tuple[str, Database], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["token", "create", "--config", hub[0], "--name", "anna", "--scope", "/acme"]) == 78
    assert "is no asset path" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["head", "verify", "search", "export"])
def test_a_missing_database_is_an_error_and_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    (tmp_path / "hub.toml").write_text(f'state_dir = "{tmp_path}/elsewhere"\n')
    assert __main__.main(["audit", what, "--config", str(tmp_path / "hub.toml")]) == 78
    assert "Give the hub's file with --config" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
