"""What the pages count and list, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.pages_world import BLIND, HOT, Pages, fill

from cloud_hub.clock import now_us
from cloud_hub.database.tables import Device
from cloud_hub.devices import notes, registry
from cloud_hub.ui import fleet
from cloud_hub.ui.live import Watch
from shared.protocol.messages import Alarm

pytestmark = pytest.mark.sql


@pytest.fixture
def plant(tmp_path: Path, url: str) -> Iterator[Pages]:
    one = Pages(tmp_path, url)
    fill(one, 14)
    yield one
    one.close()


def test_the_fleet_is_counted_and_listed(plant: Pages) -> None:
    with plant.db.read() as session:
        assert fleet.health(session) == fleet.FleetHealth(online=15, offline=1, never=1, conflicts=0)
        assert [row.id for row in fleet.lost(session, 5)] == ["sensor-005"]
        assert fleet.standing_counts(session) == {"critical": (1, 1), "high": (1, 1), "medium": (2, 2), "low": (1, 1)}
        urgent = [row.id for row in fleet.standing_alarms(session, 3)]
        assert urgent == ["a-hot", "a-stall", "a-0"]
        assert [row.id for row in fleet.standing_alarms(session, 3, device=BLIND)] == ["a-stall"]
        assert [row.id for row in fleet.standing_alarms(session, 9, priority="low")] == ["a-2"]
        assert fleet.open_groups(session) == (3, 3)
        assert fleet.proposed_actions(session) == 1
        columns = fleet.columns(session, "tags.line = 4", "HALL-2", 100)
        assert (columns.id[0], columns.priority[0], columns.alarms[0]) == (BLIND, "high", 1)
        bounded = fleet.columns(session, "", "", 3)
        assert (len(bounded.id), bounded.total, bounded.left_out) == (3, 17, 14)
    with plant.db.read(scope=("acme/hall-2",)) as session:
        assert fleet.health(session).total == 8
        assert set(fleet.standing_counts(session)) == {"high"}
        assert fleet.open_groups(session) == (1, 1)
        assert HOT not in fleet.columns(session, "", "", 100).id


def test_a_stream_tells_the_topics_that_changed_in_its_scope(plant: Pages) -> None:
    watch = Watch(topics=frozenset({"alarms", "devices"}))
    mine = Watch(topics=frozenset({"alarms"}))
    one = Watch(topics=frozenset({"device"}), device=HOT, metric="cpu.load")
    with plant.db.read() as session:
        for each in (watch, mine, one):
            each.begin(session)
            assert each.changed(session, 0.0) == set()
        assert len(one.samples(session)["t"]) > 30
        assert one.samples(session) == {}
    with plant.db.write() as session:
        alarm = Alarm(id="new", metric="cpu.load", kind="high", state="raised", priority="low", t_us=now_us(), value=1,
                      limit=0)  # fmt: skip
        from cloud_hub.incidents import service as incidents

        incidents.handle_alarm(session, HOT, alarm, now_us(), "")
    with plant.db.read(scope=("acme/hall-2",)) as session:
        assert mine.changed(session, 1.0) == set()
    with plant.db.read() as session:
        assert watch.changed(session, 1.0) == {"alarms"}
        assert watch.changed(session, 2.0) == set()
        assert one.changed(session, 2.0) == {"device"}
    with plant.db.write() as session:
        notes.add(session, BLIND, "cleaned", now_us(), actor="anna")
        row = session.get_one(Device, "sensor-001")
        row.state = "offline"
        session.add(row)
        registry.register(session, "another", now_us(), actor="anna")
    with plant.db.read() as session:
        assert one.changed(session, 3.0) == set()
        assert watch.changed(session, 9.0) == {"devices"}


def test_a_stream_that_fell_far_behind_tells_everything(plant: Pages) -> None:
    watch = Watch(topics=frozenset({"alarms", "incidents"}), seq=-1000)
    with plant.db.read() as session:
        assert watch.changed(session, 0.0) == {"alarms", "incidents"}
