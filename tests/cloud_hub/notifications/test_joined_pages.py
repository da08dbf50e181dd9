"""A page that others join, that ends and comes back: what a channel is notified of, and when."""

from __future__ import annotations

import pytest
from simulators.channels import S, World
from sqlmodel import select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Device
from cloud_hub.incidents.service import REMOVED


@pytest.fixture
def world(db: Database) -> World:
    return World(db)


# -- pages that others join ---------------------------------------------------------------------------------


def test_what_joins_a_page_is_notified_after_the_group_interval_titled_by_the_worst(world: World) -> None:
    first = world.opens("medium", device="a")
    world.passes(20)
    world.opens("low", page=first, device="b")
    world.passes(5)
    world.opens("medium", page=first, device="c")
    world.passes(40)
    assert len(world.taker.told) == 1, "it waits for group_interval_s"
    world.passes(20)
    (page,) = world.taker.told[1]
    assert (page.device, page.joined, page.devices) == ("a", ("b", "c"), ("a", "c", "b"))
    assert {alarm.device for alarm in page.alarms} == {"a", "b", "c"}
    world.opens("critical", page=first, device="d")
    world.passes(15)
    (page,) = world.taker.told[2]
    assert (page.device, page.priority, page.joined) == ("d", "critical", ("d",)), "what is worse waits group_wait_s"
    world.passes(600)
    assert len(world.taker.told) == 3, "nothing is notified twice"


def test_a_flapping_alarm_is_notified_once_and_its_end_once(world: World) -> None:
    page = ""
    for _ in range(20):
        one = world.opens(page=page)
        page = page or one
        world.passes(25)
        world.becomes(one, "resolved")
        world.passes(25)
    world.passes(300)
    assert world.taker.heard() == [(page, "open"), (page, "resolved")]


def test_a_page_that_comes_back_after_its_end_is_notified_ever_less_often(world: World) -> None:
    one = world.opens()
    for _ in range(12):
        world.passes(180)
        world.becomes(one, "resolved")
        world.passes(180)
        one = world.opens(page=world.rows()[0].page)
    states = [state for _, state in world.taker.heard()]
    assert states[:3] == ["open", "resolved", "open"]
    assert len(states) <= 8, f"{len(states)} messages within 72 minutes of one alarm that comes and goes"


def test_after_an_acknowledgement_only_what_is_new_and_worse_calls_again(world: World) -> None:
    first = world.opens("high", device="a")
    world.passes(20)
    world.becomes(first, "acknowledged")
    world.opens("high", page=first, device="b")
    world.passes(200)
    assert len(world.taker.told) == 1
    world.opens("critical", page=first, device="c")
    world.passes(200)
    assert [page.joined for pages in world.taker.told for page in pages] == [(), ("c",)]


def test_a_worse_alarm_of_an_acknowledged_incident_calls_again(world: World) -> None:
    one = world.opens("medium")
    world.passes(20)
    world.becomes(one, "acknowledged")
    world.alarm(one, "medium")
    world.passes(100)
    assert len(world.taker.told) == 1
    world.alarm(one, "critical")
    world.passes(100)
    assert [page.priority for pages in world.taker.told for page in pages] == ["medium", "critical"]


def test_what_joins_and_is_acknowledged_before_it_was_notified_is_not(world: World) -> None:
    first = world.opens(device="a")
    world.passes(20)
    second = world.opens(page=first, device="b")
    world.passes(5)
    world.becomes(second, "acknowledged")
    world.passes(200)
    assert len(world.taker.told) == 1


def test_what_joins_a_page_that_is_over_and_goes_at_once_is_notified_once(world: World) -> None:
    first = world.opens(device="a")
    world.passes(20)
    world.becomes(first, "resolved")
    world.passes(200)
    world.becomes(world.opens(page=first, device="b"), "resolved")
    world.passes(300)
    assert world.taker.heard() == [(first, "open"), (first, "resolved"), (first, "resolved")]
    assert world.taker.told[2][0].joined == ("b",)


def test_a_page_that_was_over_before_the_hours_is_notified_when_another_joins_within_them(db: Database) -> None:
    world = World(db, hours=["mon-fri 08:00-18:00"], time_zone="UTC")
    monday = 1_763_942_400  # 2025-11-24 00:00 UTC
    world.now = (monday + 8 * 3600 - 300) * S
    world.channel.run_once()
    first = world.opens(device="a")
    world.passes(60)
    world.becomes(first, "resolved")
    world.passes(280)
    assert world.taker.told == []
    world.opens(page=first, device="b")
    world.passes(200)
    assert world.taker.heard() == [(first, "open")]


def test_a_channel_of_one_hall_is_notified_of_what_joins_there_whatever_began_the_page(db: Database) -> None:
    world = World(db, sites=["acme/a/hall-2"])
    with db.write() as session:
        session.add(Device(id="one", assigned_path="acme/a/hall-1"))
        session.add(Device(id="two", assigned_path="acme/a/hall-2/line-1"))
    first = world.opens("critical", device="one")
    world.passes(100)
    world.opens("medium", page=first, device="two")
    world.passes(100)
    (page,) = world.taker.told[0]
    assert (page.devices, page.priority) == (("two",), "medium")


def test_an_unacknowledged_page_is_repeated_where_that_is_asked_for(db: Database) -> None:
    world = World(db, repeat_interval_s=600)
    one = world.opens()
    world.passes(1300)
    assert world.taker.heard() == [(one, "open")] * 3
    world.becomes(one, "acknowledged")
    world.passes(1300)
    assert len(world.taker.told) == 3


def test_after_a_burst_only_what_is_worse_leaves_before_the_interval_is_over(db: Database) -> None:
    world = World(db, burst=3, group_interval_s=300)
    for n in range(20):
        world.opens("high", device=f"d{n}")
        world.passes(12)
    assert len(world.taker.told) == 3
    worst = world.opens("critical", device="worst")
    world.passes(12)
    assert world.taker.told[3][0].id == worst
    assert len(world.taker.told[3]) > 10, "with it goes whatever waits"
    world.passes(600)
    assert len({page.id for pages in world.taker.told for page in pages}) == 21


def test_what_only_a_removed_device_began_is_not_notified_and_its_end_is(world: World) -> None:
    def removed(incident: str) -> None:
        world.becomes(incident, "resolved")
        with world.db.write() as session:
            for alarm in session.exec(select(AlarmRow).where(AlarmRow.incident == incident)):
                alarm.cleared_reason = REMOVED

    known = world.opens("critical", device="a")
    world.passes(20)
    world.opens("low", page=known, device="c")
    removed(known)
    world.passes(100)
    (page,) = world.taker.told[1]
    assert (page.device, page.devices) == ("c", ("c",)), "the page goes on without it"
    removed(world.opens(device="b"))
    world.passes(100)
    assert len(world.taker.told) == 2


@pytest.mark.parametrize("shelf_ends", [True, False])
def test_the_end_of_a_notified_page_is_notified_though_it_was_shelved_and_acknowledged(
    world: World, shelf_ends: bool
) -> None:
    page = world.opens()
    world.passes(30)
    world.shelve("shelved")
    world.passes(600)
    world.becomes(page, "acknowledged")
    if shelf_ends:
        world.shelve("")
    world.opens(device="other")  # the channel reads from the newest incident on
    world.passes(600)
    world.becomes(page, "resolved")
    world.passes(200)
    assert [told.open for pages in world.taker.told for told in pages if told.id == page] == [True, False]
