"""Tag lists in TOML and CSV: what is read, and how a wrong row is told with its place, column and cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent.collectors import modbus, opcua
from edge_agent.collectors.modbus import ModbusCollector
from edge_agent.config import CollectorTable
from shared.errors import ConfigError

BASIC = "name,address,type,scale,unit,group,writable\nspeed,40001,int16,0.1,m/s,fast,true\n"


def table(**options: Any) -> CollectorTable:
    given = {"address": "127.0.0.1:502", "groups": {"fast": {"period_s": 0.2}}} | options
    return CollectorTable(kind="modbus", name="press", period_s=None, options=given)


def listed(path: Path, text: str, **options: Any) -> ModbusCollector:
    path.write_text(text, "utf-8")
    return modbus.open_collector(table(tags_file=str(path), **options))


def refusal(path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        listed(path, text)
    assert caught.value.cure
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tags.csv"


@pytest.mark.parametrize(
    "text",
    [
        BASIC, BASIC.replace(",", ";"), BASIC.replace(",", "\t"), "\ufeff" + BASIC, BASIC.replace("\n", "\r\n"),
        "# made by hand\n\n" + BASIC + ",,,,,,\n", BASIC.replace("name", " Name "),
    ],
)  # fmt: skip
def test_csv_is_read_as_spreadsheets_write_it(file: Path, text: str) -> None:
    collector = listed(file, text)
    (tag,) = collector.tags
    assert (tag.name, tag.scale, tag.unit, tag.group, tag.writable) == ("speed", 0.1, "m/s", "fast", True)
    assert collector.writable == ["press/speed"]
    metric = collector.metrics[-1]
    assert (metric.name, metric.unit) == ("press/speed", "m/s")


def test_toml_gives_the_same_tags() -> None:
    row = {"name": "speed", "address": 40001, "type": "int16", "scale": 0.1, "unit": "m/s", "group": "fast"}
    collector = modbus.open_collector(table(tags=[row]))
    assert [metric.name for metric in collector.metrics][-1] == "press/speed"


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("speed,40001,int17,,,fast,", ["line 2", "(speed)", "column 'type'", "did you mean 'int1", "allowed: auto"]),
        ("speed,40001,int16,fast,,fast,", ["line 2", "column 'scale'", "given: 'fast'"]),
        ("speed,40001,int16;0,1,,fast,", ["line 2", "column 'type'"]),
        ("speed,400001x,int16,,,fast,", ["line 2", "needs a table", "40001 (the first holding register)"]),
        ("Speed 1,40001,int16,,,fast,", ["line 2", "'Speed 1' is no metric name"]),
        ("speed,40001,int16,0,,fast,", ["line 2", "scale not 0"]),
        ("speed,30001,int16,,,fast,true", ["line 2", "writable is for coils and holding registers"]),
        ("speed,40001,int16,,,fats,", ["no group 'fats'", "did you mean 'fast'", "[collectors.groups.fats]"]),
        ("speed,40001,int16,,,fast,,,x", ["line 2", "9 cells, the first row names 7"]),
        (",40001,int16,,,fast,", ["line 2", "`name`"]),
        ("speed,40001,string,,,fast,", ["line 2", "length is for type string"]),
        ("speed,40001,bool,,,fast,", ["line 2", "a bool in a register needs `bit`"]),
        ("speed,465536,int32,,,fast,", ["line 2", "end beyond address 65535"]),
        ('speed,40001,"int16,,,fast,', ["line 2", "quotes"]),
    ],
)
def test_a_wrong_row_is_told_with_its_line_column_and_cure(file: Path, row: str, parts: list[str]) -> None:
    told = refusal(file, f"name,address,type,scale,unit,group,writable\n{row}\n")
    assert str(file) in told
    for part in parts:
        assert part in told, told


def test_a_decimal_comma_is_recognised(file: Path) -> None:
    told = refusal(file, "name;address;scale\nspeed;40001;0,1\n")
    assert "Write a decimal point, not a comma" in told


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("name,adress", ["line 1", "no column 'adress'", "did you mean 'address'"]),
        ("name,address,name", ["line 1", "'name' is there twice"]),
        ("address,type", ["line 1", "'name' is missing"]),
        ("name,,address", ["a column has no name"]),
        ("", ["'name' is missing"]),
    ],
)
def test_a_wrong_header_is_told(file: Path, header: str, parts: list[str]) -> None:
    told = refusal(file, f"{header}\nspeed,40001\n" if header else "")
    for part in parts:
        assert part in told, told


def test_several_errors_are_told_at_once_and_the_rest_is_counted(file: Path) -> None:
    told = refusal(file, "name,address,type\n" + "".join(f"t{n},40001,int17\n" for n in range(8)))
    assert "line 2" in told
    assert "line 6" in told
    assert "and 3 more" in told
    assert "line 7" not in told


def test_the_same_name_twice_and_an_empty_list_are_refused(file: Path) -> None:
    assert "'speed' is there twice" in refusal(file, BASIC + "speed,40002,int16,,,,\n")
    assert "there is no tag" in refusal(file, "name,address\n")


def test_a_file_that_cannot_be_read_is_told(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        modbus.open_collector(table(tags_file=str(file)))
    file.write_bytes("name,address\nÜ,1\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="CSV UTF-8"):
        modbus.open_collector(table(tags_file=str(file)))


def test_an_unknown_key_of_a_toml_tag_is_told_with_its_number() -> None:
    with pytest.raises(ConfigError) as caught:
        modbus.open_collector(table(tags=[{"name": "a", "address": 40001}, {"name": "b", "adress": 40002}]))
    assert "tags[1] (b): there is no column 'adress'; did you mean 'address'" in str(caught.value)


@pytest.mark.parametrize("tags", [[], "both"])
def test_tags_come_from_one_place(file: Path, tags: Any) -> None:
    file.write_text(BASIC)
    both = {"tags": [{"name": "a", "address": 40001}], "tags_file": str(file)} if tags else {}
    with pytest.raises(ConfigError, match="either in `tags` or in `tags_file`"):
        modbus.open_collector(table(**both))


def test_a_tag_cannot_take_the_name_of_a_metric_of_the_collector_itself() -> None:
    with pytest.raises(ConfigError, match="'press/up' is one of the collector itself"):
        modbus.open_collector(table(tags=[{"name": "up", "address": 40001}]))
    collector = modbus.open_collector(table(tags=[{"name": "up", "address": 40001}], prefix="plc"))
    assert collector.names == ["plc/up"]
    assert modbus.open_collector(table(tags=[{"name": "up", "address": 40001}], prefix="")).names == ["up"]


def test_a_missing_library_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tidegate\[modbus\]"):
        modbus.open_collector(table(tags=[{"name": "a", "address": 40001}]))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"url": "opc.tcp://operator:secret@plc:4840"}, "no secret in this file"),
        ({"url": "http://plc:4840"}, "no address of an OPC UA server"),
        ({"user": "operator", "password_file": "/x"}, "could be read on the network"),
        ({"user": "operator"}, "given together"),
        ({"security_policy": "Basic256Sha256"}, "needs the files"),
        ({"security_policy": "Basic256"}, "allowed: none, Basic256Sha256"),
        ({"tags": [{"name": "a", "node": "Line.Speed"}]}, "node must be a NodeId such as ns=2;s=Line.Speed"),
        ({"tags": [{"name": "a", "node": "ns=2;s=x", "index": 1, "writable": True}]}, "is not writable"),
    ],
)
def test_options_of_opcua_that_cannot_be_used_are_refused(options: dict[str, Any], part: str) -> None:
    given = {"url": "opc.tcp://plc:4840", "tags": [{"name": "a", "node": "ns=2;s=a"}]} | options
    with pytest.raises(ConfigError) as caught:
        opcua.open_collector(CollectorTable(kind="opcua", name="ua", period_s=None, options=given))
    assert part in str(caught.value)
    assert "secret@" not in str(caught.value)
