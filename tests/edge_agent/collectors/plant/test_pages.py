"""The pages of plant protocols: every example opens, every column is described."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent import config
from edge_agent.collectors import modbus, mqtt_tap, opcua
from edge_agent.collectors.modbus.tags import ModbusTag
from edge_agent.collectors.mqtt_tap.tags import TapTag
from edge_agent.collectors.opcua.tags import OpcuaTag
from edge_agent.collectors.plant.collector import own_metrics
from edge_agent.collectors.plant.tags import Tag

FOLDER = Path(__file__).resolve().parents[4] / "docs/scada"
OPEN: dict[str, Any] = {
    "modbus": modbus.open_collector, "opcua": opcua.open_collector, "mqtt_tap": mqtt_tap.open_collector,
}  # fmt: skip
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)


def test_every_example_opens(tmp_path: Path) -> None:
    opened = set()
    for page in sorted(FOLDER.glob("plant-*.md")):
        fences = FENCE.findall(page.read_text("utf-8"))
        files = {mark.split()[1]: body for mark, body in fences if mark.startswith("csv ")}
        for body in (body for mark, body in fences if mark == "toml edge"):
            for table in config.parse(body, page.name)[0].collectors:
                options = dict(table.options)
                if "tags_file" in options:
                    file = tmp_path / Path(options["tags_file"]).name
                    file.write_text(files[file.name])
                    options["tags_file"] = str(file)
                collector = OPEN[table.kind](msgspec.structs.replace(table, options=options))
                assert collector.tags
                opened.add(table.kind)
    assert opened == set(OPEN)


def columns_on_page(heading: str) -> set[str]:
    text = (FOLDER / "plant-tags.md").read_text("utf-8")
    part = re.search(rf"^## {heading}\n(.*?)(?=^## )", text, re.M | re.S)
    assert part
    return {
        key for cell in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", part[1], re.M) for key in re.findall(r"\w+", cell)
    }


@pytest.mark.parametrize(("kind", "heading"), [(ModbusTag, "modbus"), (OpcuaTag, "opcua"), (TapTag, "mqtt_tap")])
def test_every_column_of_a_tag_list_is_on_the_page_and_no_other(kind: type[Tag], heading: str) -> None:
    common = set(Tag.__struct_fields__)
    assert columns_on_page("All kinds") == common
    assert columns_on_page(heading) == set(kind.__struct_fields__) - common


def test_every_metric_of_a_collector_is_on_the_page() -> None:
    text = (FOLDER / "plant-protocols.md").read_text("utf-8")
    for metric in own_metrics("x"):
        assert f"`{metric.name[2:]}`" in text.replace("<name>/", ""), metric.name
