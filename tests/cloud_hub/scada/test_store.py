"""Births, data and deaths of Sparkplug nodes become devices, telemetry and twins."""

from __future__ import annotations

from typing import Any

import pytest
from simulators.sparkplug_births import DRIVE, NODE, T_MS, birth, data, death, metric, properties
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Claim, Dependency, Device, SparkplugMetric, SparkplugNode, TelemetrySample
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.scada.core.records import Key, Note, Record
from cloud_hub.scada.core.values import AHEAD_US, MAX_TEXT
from cloud_hub.scada.store import Store, Stored
from cloud_hub.settings.scada import Sparkplug, SparkplugGroup
from cloud_hub.telemetry import samples
from cloud_hub.twins import service as twins
from shared.ids import DEVICE_ID, metric_name
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.payload import DataSet, Invalid, Template

NOW = T_MS * 1000 + 5_000_000
PRESS = "line-1-press-3"


class Hub:
    """A store over a real database."""

    def __init__(self, db: Database, **settings: Any) -> None:
        self.db, self.settings = db, Sparkplug(**settings)
        self.restart()

    def restart(self) -> None:
        self.store = Store(self.db, self.settings, 32768)

    def take(self, *records: Record, now_us: int = NOW) -> Stored:
        return self.store.commit(records, now_us)

    def device(self, name: str) -> Device:
        with self.db.read() as session:
            found = session.get(Device, name)
        assert found is not None, name
        return found

    def node(self, key: Key) -> SparkplugNode:
        with self.db.read() as session:
            query = select(SparkplugNode).where(SparkplugNode.group == key[0], SparkplugNode.node == key[1])
            return session.exec(query.where(SparkplugNode.sparkplug_device == key[2])).one()

    def values(self, device: str, name: str) -> list[Any]:
        with self.db.read() as session:
            return [one.text or one.value for one in samples.series(session, device, name)]

    def rows(self, device: str) -> list[TelemetrySample]:
        with self.db.read() as session:
            return list(session.exec(select(TelemetrySample).where(TelemetrySample.device == device)))

    def reported(self, device: str) -> dict[str, Any]:
        with self.db.read() as session:
            return twins.reported(session, device, "sparkplug")


@pytest.fixture
def hub(db: Database) -> Hub:
    return Hub(db)


def test_a_birth_makes_a_device_with_metrics_and_telemetry(hub: Hub) -> None:
    speed = metric("Motor 1/Speed", 12.5, properties=properties(engUnit="1/min", engLow=0.0, engHigh=3000.0))
    hub.take(birth(NODE, speed, Running=True, Parts=7, Firmware="v1.2"))
    device = hub.device(PRESS)
    assert (device.state, device.profile, device.born_us) == ("online", "sparkplug", NOW)
    assert device.metrics[0] == {
        "name": "motor-1/speed", "unit": "1/min", "kind": "gauge", "low": 0.0, "high": 3000.0,
    }  # fmt: skip
    assert [hub.values(PRESS, name) for name in ("motor-1/speed", "running", "parts", "firmware")] == [
        [12.5], [1.0], [7.0], ["v1.2"],
    ]  # fmt: skip
    assert hub.reported(PRESS) == {
        "group": "Line 1", "node": "Press 3", "state": "online", "metrics": {"firmware": "v1.2"},
    }  # fmt: skip
    with hub.db.read() as session:
        assert [row.kind for row in trail.rows(session, limit=9)] == ["device.registered"]


def test_data_is_telemetry_at_its_own_time(hub: Hub) -> None:
    hub.take(birth(speed=1.0))
    hub.take(data(speed=2.0, t_ms=T_MS + 1), data(speed=3.0, t_ms=T_MS + 2))
    assert [(row.t_us, row.value) for row in hub.rows(PRESS)] == [
        (T_MS * 1000, 1.0), ((T_MS + 1) * 1000, 2.0), ((T_MS + 2) * 1000, 3.0),
    ]  # fmt: skip


@pytest.mark.sql
def test_a_value_that_is_repeated_is_stored_once(hub: Hub) -> None:
    hub.take(birth(speed=1.0), birth(speed=1.0))
    hub.take(birth(speed=1.0), data(speed=1.0, t_ms=T_MS))
    assert len(hub.rows(PRESS)) == 1


@pytest.mark.sql
def test_of_two_values_in_one_millisecond_the_later_one_stays(hub: Hub) -> None:
    hub.take(birth(speed=1.0), data(speed=2.0, t_ms=T_MS))
    assert hub.values(PRESS, "speed") == [2.0]
    hub.take(data(speed=3.0, t_ms=T_MS))
    assert hub.values(PRESS, "speed") == [3.0]


def test_a_device_of_a_node_depends_on_it(hub: Hub) -> None:
    hub.take(birth(), birth(DRIVE, torque=3.0))
    assert hub.device(f"{PRESS}-drive").tags == {"depends_on": PRESS}
    with hub.db.read() as session:
        assert [(row.subject, row.depends_on) for row in session.exec(select(Dependency))] == [
            (f"{PRESS}-drive", PRESS)
        ]


def test_the_death_of_a_node_takes_its_devices_along(hub: Hub) -> None:
    hub.take(birth(speed=1.0), birth(DRIVE, torque=3.0))
    hub.restart()
    hub.take(death())
    assert [hub.device(name).state for name in (PRESS, f"{PRESS}-drive")] == ["offline", "offline"]
    assert hub.reported(f"{PRESS}-drive")["state"] == "offline"
    assert hub.node(DRIVE).state == "offline"


def test_the_death_of_a_device_leaves_its_node_alone(hub: Hub) -> None:
    hub.take(birth(speed=1.0), birth(DRIVE, torque=3.0), death(DRIVE))
    assert [hub.device(name).state for name in (PRESS, f"{PRESS}-drive")] == ["online", "offline"]


def test_a_rebirth_makes_devices_wait_for_their_own(hub: Hub) -> None:
    hub.take(birth(speed=1.0), birth(DRIVE, torque=3.0))
    hub.take(birth(speed=1.0))
    assert hub.device(f"{PRESS}-drive").state == "offline"
    hub.take(birth(speed=1.0), birth(DRIVE, torque=3.0))
    assert hub.device(f"{PRESS}-drive").state == "online"
    assert (hub.node(NODE).births, hub.node(DRIVE).births) == (3, 2)


def test_a_birth_with_other_metrics_replaces_the_list_and_keeps_names(hub: Hub) -> None:
    hub.take(birth(NODE, metric("A B", 1.0), metric("a-b", 2.0)))
    hub.restart()
    hub.take(birth(NODE, metric("a-b", 3.0, T_MS + 1), metric("new", 4.0)))
    names = [one["name"] for one in hub.device(PRESS).metrics]
    assert names[0].startswith("a-b-")
    assert names[1] == "new"
    assert hub.values(PRESS, names[0]) == [2.0, 3.0]
    with hub.db.read() as session:
        present = {row.name: row.present for row in session.exec(select(SparkplugMetric))}
    assert present == {"A B": False, "a-b": True, "new": True}


def test_an_unchanged_birth_rewrites_no_metrics(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.take(birth(speed=1.0))
    hub.restart()
    monkeypatch.setattr(hub.store.registry, "define", None)
    hub.take(birth(speed=2.0))
    assert hub.node(NODE).births == 2


def test_data_of_a_node_that_was_never_born_is_dropped(hub: Hub) -> None:
    assert hub.take(data(speed=1.0)).rows == 0


def test_metrics_that_the_birth_did_not_define_are_counted(hub: Hub) -> None:
    hub.take(birth(speed=1.0))
    assert hub.take(data(torque=1.0, bdSeq=1)).unknown == 1


def test_a_sample_says_how_good_it_is(hub: Hub) -> None:
    hub.take(
        birth(
            NODE, metric("null", None), metric("nan", float("nan")), metric("broken", Invalid("no value")),
            metric("stale", 1.0, properties=properties(Quality=500)),
            metric("bad", 1.0, properties=properties(Quality=0)),
            metric("good", 1.0, properties=properties(Quality=192)),
        )
    )  # fmt: skip
    found = {row.metric: (row.value, row.quality) for row in hub.rows(PRESS)}
    assert found == {
        "null": (None, "bad"), "nan": (None, "bad"), "broken": (None, "bad"), "stale": (1.0, "uncertain"),
        "bad": (1.0, "bad"), "good": (1.0, "good"),
    }  # fmt: skip


def test_a_time_in_the_future_is_replaced_by_that_of_receipt(hub: Hub) -> None:
    ahead_ms = (NOW + AHEAD_US) // 1000 + 1
    result = hub.take(birth(NODE, metric("speed", 1.0, ahead_ms), metric("torque", 1.0, -5), metric("x", 1.0, 1 << 63)))
    assert {(row.t_us, row.quality) for row in hub.rows(PRESS)} == {(NOW, "uncertain")}
    assert result.wrong_times == 3


def test_templates_are_flattened_and_tables_left_out(hub: Hub) -> None:
    motor = Template(is_definition=False, template_ref="Motor", metrics=(metric("Speed", 5.0),))
    table = DataSet(columns=("a",), types=(DataType.Int8,), rows=((1,),))
    hub.take(
        birth(
            NODE, metric("M1", motor, datatype=DataType.Template), metric("T", table, datatype=DataType.DataSet),
            metric("Motor", Template(is_definition=True), datatype=DataType.Template),
        )
    )  # fmt: skip
    assert [(row.metric, row.value) for row in hub.rows(PRESS)] == [("m1/speed", 5.0)]
    with hub.db.read() as session:
        assert {row.name: row.stored for row in session.exec(select(SparkplugMetric))} == {
            "M1/Speed": "number", "T": "no",
        }  # fmt: skip


# -- hostile nodes ------------------------------------------------------------------------------------

HOSTILE = [
    "a/../../etc", "#", "+/#", "<script>alert(1)</script>", "' OR 1=1 --", "\x1b[31m", "x" * 900, "压力/一号",
    "\u202edesrever", "$aws/things", "..", "/", "a//b", "\U0001f4a9", "{{7*7}}", "%s%n", "a.b", "A.B",
]  # fmt: skip


def test_hostile_names_become_plain_ones(hub: Hub) -> None:
    hub.take(birth(NODE, *(metric(name, float(n)) for n, name in enumerate(HOSTILE)), metric("n\0l", 1.0)))
    names = [one["name"] for one in hub.device(PRESS).metrics]
    assert [metric_name(name) for name in names] == names
    assert len(set(names)) == len(HOSTILE)
    assert {row.value for row in hub.rows(PRESS)} == {float(n) for n in range(len(HOSTILE))}


def test_hostile_ids_become_plain_device_ids(hub: Hub) -> None:
    keys: list[Key] = [("g", name, "") for name in HOSTILE]
    keys += [
        ("g" * 256, "n" * 256, ""),
        ("G", "a-b", ""),
        ("g-a", "b", ""),
    ]
    hub.take(*(birth(key, speed=1.0) for key in keys))
    with hub.db.read() as session:
        devices = [row.device for row in session.exec(select(SparkplugNode))]
    assert len(set(devices)) == len(keys)
    assert all(DEVICE_ID.match(name) for name in devices)


@pytest.mark.sql
def test_texts_are_stored_as_far_as_the_databases_can(hub: Hub) -> None:
    hub.take(birth(NODE, metric("nul", "a\x00b"), metric("long", "字" * 5000), metric("script", "<script>")))
    assert hub.values(PRESS, "nul") == ["a\ufffdb"]
    assert hub.values(PRESS, "long") == ["字" * MAX_TEXT]
    assert hub.reported(PRESS)["metrics"]["script"] == "<script>"


def test_ten_thousand_metrics_are_one_birth(hub: Hub) -> None:
    result = hub.take(birth(NODE, *(metric(f"Tag {n}", float(n)) for n in range(10_000))))
    assert (result.rows, len(hub.device(PRESS).metrics), hub.node(NODE).metrics) == (10_000, 10_000, 10_000)


def test_a_thousand_texts_do_not_outgrow_the_twin(hub: Hub) -> None:
    hub.take(birth(NODE, *(metric(f"text {n}", "y" * 250) for n in range(1000))))
    assert 0 < len(hub.reported(PRESS)["metrics"]) < 200
    assert len(hub.rows(PRESS)) == 1000


def test_metrics_beyond_the_limit_are_refused_and_the_others_stored(db: Database) -> None:
    hub = Hub(db, max_metrics=2)
    result = hub.take(birth(NODE, a=1.0, b=2.0, c=3.0))
    assert len(hub.rows(PRESS)) == 2
    assert "max_metrics" in result.refused[0][1]
    assert "max_metrics" in hub.node(NODE).refusal


def test_nodes_beyond_the_limit_are_refused(db: Database) -> None:
    hub = Hub(db, max_nodes=1)
    result = hub.take(birth(NODE, a=1.0), birth(("g", "n", ""), a=1.0))
    assert "max_nodes" in result.refused[0][1]
    with hub.db.read() as session:
        assert len(list(session.exec(select(Device)))) == 1


def test_notes_about_a_node_are_counted(hub: Hub) -> None:
    hub.take(birth(a=1.0))
    notes = [Note(key=NODE, reason="gap", refused=False), Note(key=NODE, reason="bad <b>", refused=True)]
    hub.take(*notes, *notes, Note(key=("no", "one", ""), reason="?", refused=True))
    node = hub.node(NODE)
    assert (node.requested, node.refused, node.refusal) == (2, 2, "bad <b>")


# -- other devices of the hub -----------------------------------------------------------------------------


def own_birth(agent: str) -> Record:
    return birth(NODE, metric("Properties/Tidegate Device", agent), speed=1.0)


def test_a_node_that_is_an_agent_of_this_hub_is_tracked_and_not_stored_twice(hub: Hub) -> None:
    with hub.db.write() as session:
        session.add(Device(id="press-3", profile="x86-64", state="online"))
    hub.take(own_birth("press-3"), data(speed=2.0), birth(DRIVE, torque=1.0), death())
    assert hub.rows("press-3") == []
    assert (hub.node(NODE).device, hub.node(NODE).own, hub.node(NODE).state) == ("press-3", True, "offline")
    assert hub.node(DRIVE).own
    assert hub.device("press-3").state == "online"
    with hub.db.read() as session:
        assert [row.id for row in session.exec(select(Device))] == ["press-3"]


def test_a_node_that_claims_to_be_an_unknown_agent_is_a_device_of_its_own(hub: Hub) -> None:
    hub.take(own_birth("nobody"))
    assert hub.node(NODE).device == PRESS
    with hub.db.write() as session:
        session.add(Device(id="nobody", profile="x86-64"))
    hub.take(own_birth("nobody"))
    assert (hub.node(NODE).device, hub.node(NODE).own) == ("nobody", True)


def test_the_id_of_another_device_is_not_taken(hub: Hub) -> None:
    with hub.db.write() as session:
        session.add(Device(id=PRESS, profile="x86-64"))
    hub.take(birth(speed=1.0))
    assert hub.rows(PRESS) == []
    assert hub.node(NODE).device.startswith(f"{PRESS}-")


def test_an_id_that_an_agent_may_still_enrol_under_is_not_taken(hub: Hub) -> None:
    with hub.db.write() as session:
        session.add(Claim(device=PRESS, digest="d", actor="anna", created_us=1, expires_us=2))
    hub.take(birth(speed=1.0))
    assert hub.node(NODE).device.startswith(f"{PRESS}-")


def test_a_node_gives_up_an_id_under_which_an_agent_comes(hub: Hub) -> None:
    hub.take(birth(speed=1.0), birth(DRIVE, torque=1.0))
    with hub.db.write() as session:
        device = session.get_one(Device, PRESS)
        device.profile, device.state = "x86-64", "online"
        session.add(device)
    result = hub.take(data(speed=2.0))
    assert result.again == {NODE}
    assert "an agent has the id" in result.refused[0][1]
    hub.take(birth(speed=3.0))
    assert hub.node(NODE).device.startswith(f"{PRESS}-")
    hub.take(death())
    assert (hub.device(PRESS).profile, hub.device(PRESS).state) == ("x86-64", "online")
    assert hub.values(PRESS, "speed") == [1.0]


def test_a_removed_device_stays_removed_until_it_is_restored(hub: Hub) -> None:
    hub.take(birth(speed=1.0), birth(DRIVE, torque=1.0))
    with hub.db.write() as session:
        decommissioning.remove(session, PRESS, NOW, actor="anna")
    result = hub.take(birth(speed=2.0), data(speed=3.0), data(DRIVE, torque=2.0), death())
    assert result.removed
    with hub.db.read() as session:
        assert session.get(Device, PRESS) is None
    assert hub.values(PRESS, "speed") == [1.0]
    with hub.db.write() as session:
        decommissioning.restore(session, PRESS, NOW, actor="anna")
    hub.take(birth(speed=1.0), data(speed=3.0))
    assert (hub.device(PRESS).profile, hub.device(PRESS).state) == ("sparkplug", "online")
    assert [one["name"] for one in hub.device(PRESS).metrics] == ["speed"]
    assert hub.values(PRESS, "speed") == [1.0, 3.0]


def test_a_device_restored_between_two_births_gets_its_metrics_back(hub: Hub) -> None:
    hub.take(birth(speed=1.0))
    with hub.db.write() as session:
        decommissioning.remove(session, PRESS, NOW, actor="anna")
        decommissioning.restore(session, PRESS, NOW, actor="anna")
    hub.take(birth(speed=2.0))
    assert [one["name"] for one in hub.device(PRESS).metrics] == ["speed"]


def test_devices_of_a_group_get_its_asset_path(db: Database) -> None:
    hub = Hub(db, groups=[SparkplugGroup(group="Line 1", asset_path="acme/site-a")])
    hub.take(birth(speed=1.0), birth(DRIVE, torque=1.0))
    assert {hub.device(name).assigned_path for name in (PRESS, f"{PRESS}-drive")} == {"acme/site-a"}


def test_nothing_of_a_batch_that_fails_is_kept(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UnicodeError("no")

    with monkeypatch.context() as patched:
        patched.setattr(samples, "store_samples", fail)
        with pytest.raises(UnicodeError):
            hub.take(birth(speed=1.0))
    hub.take(birth(speed=1.0))
    assert hub.values(PRESS, "speed") == [1.0]


@pytest.mark.sql
@pytest.mark.parametrize("number", [2**40, 2**63, 2**64 - 1])
def test_a_node_that_counts_bd_seq_further_than_a_column_is_registered(hub: Hub, number: int) -> None:
    assert hub.take(birth(NODE, bd_seq=number, a=1.0)).refused == []
    assert hub.values(PRESS, "a") == [1.0]
    assert (hub.node(NODE).state, hub.node(NODE).bd_seq) == ("online", None)
