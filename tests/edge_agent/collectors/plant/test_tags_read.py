"""`tidegate-edge tags read` and `check`: an integrator tests a tag list before the agent runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.brokers import free_port
from simulators.modbus_devices import Plc, tcp_plc

from edge_agent.checks import run_checks
from edge_agent.cli.main import main

CONFIG = """
[device]
id = "gateway-1"
profile = "x86-64"
state_dir = "{folder}/state"

[[collectors]]
kind = "host"

[[collectors]]
kind = "modbus"
name = "press"
address = "127.0.0.1:{port}"
tags_file = "{folder}/press.csv"
"""
TAGS = """name,table,address,type,scale,unit,length
temp,holding,0,int16,0.1,Cel,
state,holding,10,string,,,4
gone,holding,3,uint16,,,
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Plc]:
    with tcp_plc() as plc:
        plc.put(0, 215)
        plc.put(10, 0x7275, 0x6E00)
        plc.missing = {3}
        yield plc


def written(folder: Path, port: int, tags: str = TAGS) -> str:
    (folder / "press.csv").write_text(tags)
    (folder / "edge.toml").write_text(CONFIG.format(folder=folder, port=port))
    return str(folder / "edge.toml")


def test_all_tags_are_read_once_and_shown_as_a_table(
    server: Plc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["tags", "read", "--config", written(tmp_path, server.port)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["NAME", "VALUE", "UNIT", "QUALITY", "ERROR"],
        ["press/temp", "21.5", "Cel", "good"],
        ["press/state", "run", "1", "good"],
    ]
    assert lines[3].split(maxsplit=4) == ["press/gone", "-", "1", "bad", "illegal data address (exception 2)"]
    assert lines[4] == "3 tags, 1 without a value"
    assert code == 1, "a script sees that a tag has no value"


def test_json_is_printed_for_programs(server: Plc, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tags", "read", "--config", written(tmp_path, server.port), "--collector", "press", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {"name": "press/temp", "value": 21.5, "unit": "Cel", "quality": "good", "error": ""}


def test_a_source_that_is_not_there_is_told_for_each_tag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path, free_port())
    assert main(["tags", "read", "--config", config, "--wait", "1.5"]) == 1
    assert capsys.readouterr().out.count("cannot be reached") == 3


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--collector", "pres"], "There are: host, press"), (["--collector", "host"], "no collector with tags")],
)
def test_a_collector_that_is_not_there_or_has_no_tags_is_told(
    server: Plc, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert main(["tags", "read", "--config", written(tmp_path, server.port), *arguments]) == 78
    assert part in capsys.readouterr().err


def test_check_reports_a_wrong_tag_list_with_its_line(tmp_path: Path) -> None:
    config = written(tmp_path, free_port(), TAGS.replace("int16", "int17"))
    (problem,) = [line for line in run_checks(Path(config)).problems if "press.csv" in line]
    assert "line 2 (temp): column 'type'" in problem
    assert "did you mean 'int16'" in problem
