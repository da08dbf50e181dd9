"""Limits of many devices as a file: what goes out comes in again, all or none of it."""

from __future__ import annotations

from typing import Any

import pytest
from simulators import histories

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.errors import HubError
from cloud_hub.thresholds.limits import import_export
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.twins import service as twins
from shared.thresholds import Limits

NOW = 1_800_000_000_000_000
ONE = Limits(
    metric="cpu.load", high=80.0, lows=tuple(map(float, range(24))), highs=tuple(range(30, 54)), source="learned"
)
OTHER = Limits(metric="disk.used", low=1.0, schedule=("mon-fri 08:00-17:00",))


@pytest.fixture
def plant(db: Database) -> Database:
    histories.devices(db, ["a", "b", "c"])
    return db


def take(db: Database, sets: Any, *, replace: bool = False) -> None:
    with db.write() as session:
        import_export.import_limits(session, sets, NOW, actor="anna", replace=replace, max_bytes=32768, trace="")


def export(db: Database, **more: Any) -> Any:
    with db.read() as session:
        return import_export.export_limits(
            session, "*", more.get("after", ""), more.get("limit", 10), more.get("source", ""), NOW
        )


def test_what_goes_out_comes_in_again(plant: Database) -> None:
    take(plant, {"a": [ONE, OTHER], "b": [OTHER]})
    found = export(plant)
    assert (found["form"], list(found["devices"]), found["next"]) == (import_export.FORM, ["a", "b"], "")
    assert import_export.read_file(found["form"], found["devices"]) == {"a": [ONE, OTHER], "b": [OTHER]}
    take(plant, import_export.read_file(found["form"], {"c": found["devices"]["a"]}))
    with plant.read() as session:
        assert limits_standing.present(session, ["c"]) == {("c", "cpu.load"): ONE, ("c", "disk.used"): OTHER}
        rows = trail.rows(session, kind="limits.imported")
    assert [row.detail["devices"] for row in rows] == [["c"], ["a", "b"]]


def test_pages_and_sources(plant: Database) -> None:
    take(plant, {"a": [ONE, OTHER], "b": [OTHER], "c": [ONE]})
    first = export(plant, limit=2)
    assert (list(first["devices"]), first["next"]) == (["a", "b"], "b")
    assert list(export(plant, limit=2, after="b")["devices"]) == ["c"]
    assert {name: len(rows) for name, rows in export(plant, source="learned")["devices"].items()} == {"a": 1, "c": 1}


def test_other_metrics_stay_unless_they_are_replaced(plant: Database) -> None:
    take(plant, {"a": [OTHER]})
    take(plant, {"a": [ONE]})
    assert len(export(plant)["devices"]["a"]) == 2
    take(plant, {"a": [ONE]}, replace=True)
    assert [row["metric"] for row in export(plant)["devices"]["a"]] == ["cpu.load"]


def test_one_unknown_device_and_nothing_is_taken(plant: Database) -> None:
    with pytest.raises(HubError, match="nobody"):
        take(plant, {"a": [ONE], "nobody": [ONE]})
    assert export(plant)["devices"] == {}
    with plant.read() as session:
        assert twins.load(session, "a", "thresholds").version == 0


@pytest.mark.parametrize(("form", "sets", "place"), [
    ("tidegate-limits/2", {}, "body.form"),
    (import_export.FORM, {"a": [{"metric": "m", "high": 1.0, "color": "red"}]}, r"body.devices.a\[0\]: 'color'"),
    (import_export.FORM, {"a": [{"metric": "m", "high": 1.0}, {"metric": "n"}]}, r"body.devices.a\[1\]"),
    (import_export.FORM, {"a": [{"metric": "m", "high": 1.0}] * 2}, "duplicate limits of m"),
    (import_export.FORM, {"a": [{"high": 1.0}]}, r"body.devices.a\[0\]"),
])  # fmt: skip
def test_a_wrong_file_is_told_with_its_place(form: str, sets: Any, place: str) -> None:
    with pytest.raises(HubError, match=place) as no:
        import_export.read_file(form, sets)
    assert no.value.status == 422
