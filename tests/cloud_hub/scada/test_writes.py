"""Writes to Sparkplug devices are judged and stored, whatever is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from simulators.sparkplug_births import DRIVE, NODE, T_MS, birth, data, metric
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, SparkplugWrite
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.errors import HubError
from cloud_hub.scada import writes
from cloud_hub.scada.core.records import Record
from cloud_hub.scada.core.write_values import to_metric
from cloud_hub.scada.current import CurrentValues
from cloud_hub.scada.store import Store
from cloud_hub.scada.writes import WriteRequest, WriteService, rules_of
from cloud_hub.settings.scada import Sparkplug
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.payload import Metric

PRESS = "line-1-press-3"
NOW = T_MS * 1000
SECOND = 1_000_000
RULES: list[dict[str, Any]] = [
    {"device": PRESS, "metric": "setpoint", "low": 0, "high": 100, "max_step": 50, "per_minute": 2},
    {"device": PRESS, "metric": "count", "low": 0, "high": 300},
    {"device": PRESS, "metric": "mode", "allowed": ["auto", "manual"]},
    {"device": PRESS, "metric": "lamp", "allowed": [True, False]},
    {"device": PRESS, "metric": "gone", "low": 0, "high": 1},
    {"device": PRESS, "metric": "oil", "low": 0, "high": 1, "only_while": "speed == 0 and lamp == 0"},
    {"device": "press-3", "metric": "x", "low": 0, "high": 1},
]


class Rig:
    """A node with metrics, and the service of writes."""

    def __init__(self, db: Database) -> None:
        self.db, self.now = db, NOW + SECOND
        settings = Sparkplug.model_validate({"writable": RULES})
        self.current = CurrentValues(rules_of(settings.writable))
        self.service = WriteService(rules_of(settings.writable), self.current)
        self.store = Store(db, settings, 32768)
        count = metric("count", 1, datatype=DataType.UInt8)
        self.take(birth(NODE, count, setpoint=10.0, mode="auto", lamp=False, speed=0.0, oil=0.0))

    def take(self, *records: Record) -> None:
        self.store.commit(records, self.now)
        for record in records:
            known = self.store.registry.get(record.key)
            if known is not None:
                self.current.update(known, record, self.now)

    def write(self, name: str, value: Any, device: str = PRESS, **more: Any) -> SparkplugWrite:
        with self.db.write(device) as session:
            wanted = WriteRequest(device=device, metric=name, value=value, actor="anna", **more)
            return self.service.request(session, wanted, self.now)


@pytest.fixture
def rig(db: Database) -> Rig:
    return Rig(db)


@pytest.mark.sql
@pytest.mark.parametrize(
    ("name", "value"), [("setpoint", 42), ("setpoint", 42.5), ("count", 250), ("mode", "manual"), ("lamp", True)]
)
def test_a_value_within_its_rule_is_pending_and_audited(rig: Rig, name: str, value: Any) -> None:
    row = rig.write(name, value, why="order")
    assert (row.state, row.value, row.reason, row.done_us) == ("pending", value, "", None)
    with rig.db.read() as session:
        assert writes.get(session, row.id).value == value
        last = trail.rows(session, limit=1)[0]
    assert (last.kind, last.actor, last.device, last.detail["why"]) == (
        "sparkplug.write.pending",
        "anna",
        PRESS,
        "order",
    )


@pytest.mark.sql
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("setpoint", 101, "above high"), ("setpoint", 99, "max_step"), ("setpoint", "1", "no number"),
        ("setpoint", True, "no number"), ("setpoint", None, "no number"), ("setpoint", [1], "no number"),
        ("setpoint", float("nan"), "finite"), ("setpoint", 10**400, "above high"), ("count", 1.5, "whole numbers"),
        ("count", 299, "UInt8"), ("mode", "off", "not an allowed"), ("mode", "a\0" * 500, "not an allowed"),
        ("lamp", 1, "no boolean"), ("speed", 1, "not declared"), ("x" * 900, 1, "not declared"),
        ("a\x1bb", 1, "not declared"), ("gone", 1, "no metric gone"),
    ],
)  # fmt: skip
def test_a_value_beyond_its_rule_is_refused_with_the_reason(rig: Rig, name: str, value: Any, reason: str) -> None:
    row = rig.write(name, value)
    assert (row.state, row.done_us) == ("refused", rig.now)
    assert reason in row.reason
    with rig.db.read() as session:
        assert trail.rows(session, limit=1)[0].kind == "sparkplug.write.refused"
        assert trail.verify(session) is None


def test_too_many_writes_in_a_minute_are_refused(rig: Rig) -> None:
    assert [rig.write("setpoint", 20).state for _ in range(3)] == ["pending", "pending", "refused"]
    rig.now += 61 * SECOND
    rig.take(data(setpoint=20.0, t_ms=rig.now // 1000))
    assert rig.write("setpoint", 20).state == "pending"


def test_refused_writes_and_dry_runs_do_not_count_for_the_rate(rig: Rig) -> None:
    for _ in range(3):
        assert rig.write("setpoint", 20, dry_run=True).state == "dry-run"
        assert rig.write("setpoint", 200).state == "refused"
    assert rig.write("setpoint", 20).state == "pending"


def test_a_condition_needs_values_that_are_good_and_fresh(rig: Rig) -> None:
    assert rig.write("oil", 1, dry_run=True).state == "dry-run"
    rig.take(data(NODE, metric("speed", 5.0, T_MS + 2)))
    assert "speed is 5" in rig.write("oil", 1).reason
    rig.take(data(NODE, metric("speed", 0.0, T_MS + 3)), data(NODE, metric("lamp", None, T_MS + 3, DataType.Boolean)))
    assert "lamp has no value" in rig.write("oil", 1).reason
    rig.take(data(NODE, metric("lamp", False, T_MS + 4)))
    assert rig.write("oil", 1, dry_run=True).state == "dry-run"
    rig.now += 11 * SECOND
    assert "old" in rig.write("oil", 1).reason
    rig.take(data(NODE, metric("mode", "auto", T_MS + 5)))
    assert rig.write("oil", 1, dry_run=True).state == "dry-run", "a message of the node shows that its values stand"
    rig.current.forget([PRESS])
    assert "has no value" in rig.write("oil", 1).reason


def test_historical_values_are_not_present_ones(rig: Rig) -> None:
    old = Metric(name="speed", datatype=DataType.Double, value=9.0, timestamp=T_MS - 5, is_historical=True)
    rig.take(data(NODE, old))
    assert rig.write("oil", 1, dry_run=True).state == "dry-run"


def test_other_devices_are_refused_or_unknown(rig: Rig) -> None:
    with pytest.raises(HubError) as unknown:
        rig.write("setpoint", 1, device="nobody")
    assert unknown.value.status == 404
    with rig.db.write() as session:
        session.add(Device(id="press-3", profile="x86-64"))
    assert "no Sparkplug node" in rig.write("x", 1, device="press-3").reason
    own = birth(("g", "own", ""), metric("Properties/Tidegate Device", "press-3"), x=1.0)
    rig.take(own)
    assert "an agent of this hub" in rig.write("x", 1, device="press-3").reason


def test_the_removal_of_a_device_ends_its_writes(rig: Rig) -> None:
    rig.take(birth(DRIVE, a=1.0))
    number = rig.write("setpoint", 20).id
    with rig.db.write() as session:
        decommissioning.remove(session, PRESS, rig.now, actor="anna")
    with rig.db.read() as session:
        assert session.get_one(SparkplugWrite, number).state == "failed"
        assert writes.under_way(session) == []


def test_writes_are_listed_newest_first_within_the_scope(rig: Rig) -> None:
    first, second = rig.write("setpoint", 20), rig.write("setpoint", 2000)
    with rig.db.read() as session:
        assert [row.id for row in writes.list_writes(session)] == [second.id, first.id]
        assert [row.id for row in writes.list_writes(session, state="pending", device=PRESS)] == [first.id]
    with rig.db.read(scope=("acme/b",)) as session:
        assert writes.list_writes(session) == []
        with pytest.raises(HubError):
            writes.get(session, first.id)
        assert session.exec(select(SparkplugWrite)).all()


@pytest.mark.parametrize(
    ("kind", "value", "made"),
    [
        ("Int8", -5.0, -5), ("UInt64", 2.0**53, 1 << 53), ("Float", 1, 1.0), ("Boolean", 1, True), ("Text", "a", "a"),
        ("DateTime", 5, 5),
    ],
)  # fmt: skip
def test_a_value_takes_the_datatype_of_the_metric(kind: str, value: Any, made: Any) -> None:
    found = to_metric("m", kind, value)
    assert (found.datatype, found.value, type(found.value)) == (DataType[kind], made, type(made))


@pytest.mark.parametrize(
    ("kind", "value"),
    [("Int8", 128), ("Int8", 1.5), ("Int8", True), ("Boolean", 2), ("String", 1), ("DataSet", 1), ("?", 1),
     ("Float", "x"), ("Int32", float("inf"))],
)  # fmt: skip
def test_a_value_that_does_not_fit_the_datatype_is_refused(kind: str, value: Any) -> None:
    with pytest.raises((ValueError, OverflowError)):
        to_metric("m", kind, value)
