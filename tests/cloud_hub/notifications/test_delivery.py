"""A channel at work on a virtual clock: one message a page, kept over crashes, tried again, given up and told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from simulators.channels import S, World
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, Notification
from cloud_hub.notifications.delivery import CLAIM_S, ChannelWorker
from shared.errors import ConfigError, NotReady


@pytest.fixture
def world(db: Database) -> World:
    return World(db)


def test_a_page_is_told_once_with_all_its_alarms_and_once_that_it_is_over(world: World) -> None:
    one = world.opens()
    world.alarm(one)
    world.passes(9)
    assert world.taker.told == []
    world.alarm(one, "low")
    world.passes(200)
    assert world.taker.heard() == [(one, "open")]
    assert len(world.taker.told[0][0].alarms) == 3
    world.becomes(one, "resolved")
    world.passes(200)
    assert world.taker.heard() == [(one, "open"), (one, "resolved")]
    assert [(row.state, row.sent_status, row.due_us) for row in world.rows()] == [("closed", "resolved", None)]


def test_what_belongs_to_a_page_is_told_with_it_and_it_ends_with_the_last(world: World) -> None:
    first = world.opens(device="a")
    second, third = world.opens(device="b", page=first), world.opens(device="c", page=first)
    world.passes(20)
    assert world.taker.heard() == [(first, "open")]
    assert world.taker.told[0][0].devices == ("a", "b", "c")
    world.becomes(first, "resolved")
    world.becomes(second, "resolved")
    world.passes(200)
    assert len(world.taker.told) == 1
    world.becomes(third, "resolved")
    world.passes(130)
    assert world.taker.heard()[1:] == [(first, "resolved")]


def test_what_is_shelved_calls_nobody(world: World) -> None:
    one = world.opens(suppressed="shelved")
    world.passes(30)
    assert world.taker.told == []
    world.alarm(one)
    world.passes(30)
    assert world.taker.heard() == [(one, "open")]
    assert len(world.taker.told[0][0].alarms) == 1


def test_what_is_shelved_after_it_was_told_is_told_anew_when_the_shelf_ends(db: Database) -> None:
    world = World(db, kind="alertmanager", resend_s=30, group_wait_s=0)
    one = world.opens()
    world.passes(5)
    world.shelve("shelved")
    world.passes(100)
    assert world.taker.heard() == [(one, "open")]
    world.shelve("")
    world.passes(35)
    assert world.taker.heard() == [(one, "open")] * 3
    world.shelve("shelved")
    world.passes(5)
    world.becomes(one, "resolved")
    world.passes(100)
    assert world.taker.heard() == [(one, "open")] * 3 + [(one, "resolved")], "who heard of it hears of its end"


def test_what_becomes_worse_is_told_again_and_what_does_not_is_not(world: World) -> None:
    one = world.opens("medium")
    world.passes(20)
    world.alarm(one, "low")
    world.passes(60)
    world.alarm(one, "critical")
    world.passes(60)
    assert [page.priority for pages in world.taker.told for page in pages] == ["medium", "critical"]


def test_what_was_acknowledged_before_is_not_told(world: World) -> None:
    one = world.opens()
    world.passes(5)
    world.becomes(one, "acknowledged")
    world.passes(60)
    world.becomes(one, "resolved")
    world.passes(60)
    assert world.taker.told == []


def test_what_came_and_went_is_told_once(world: World) -> None:
    one = world.opens()
    world.becomes(one, "resolved")
    world.passes(30)
    assert world.taker.heard() == [(one, "resolved")]
    world.passes(300)
    assert len(world.taker.told) == 1


def test_a_page_that_came_and_went_while_the_hub_was_away_is_told(world: World) -> None:
    one = world.opens()
    world.becomes(one, "resolved")
    world.now += 7200 * S
    world.restart()
    world.passes(5)
    assert world.taker.heard() == [(one, "resolved")]


def test_what_stands_when_a_channel_is_new_is_told_and_what_is_long_over_is_not(db: Database) -> None:
    world = World(db)
    old, stands = world.opens(), world.opens(device="other")
    world.becomes(old, "resolved")
    with db.write() as session:
        for row in session.exec(select(Notification)):
            session.delete(row)
    world.now += 86400 * S
    world.channel = ChannelWorker(db, "new", world.settings, world.taker, lambda: 0.5, lambda: world.now)
    world.passes(30)
    assert world.taker.heard() == [(stands, "open")]


def test_filters_keep_to_priority_and_site(db: Database) -> None:
    world = World(db, priority="high", sites=["acme/site-a"])
    with db.write() as session:
        session.add(Device(id="a", assigned_path="acme/site-a/hall-1"))
        session.add(Device(id="ab", assigned_path="acme/site-ab"))
    mine = world.opens(device="a")
    world.opens(device="ab")
    world.opens(device="nowhere")
    low = world.opens("medium", device="a")
    world.passes(30)
    assert world.taker.heard() == [(mine, "open")]
    world.alarm(low, "critical")
    world.passes(30)
    assert world.taker.heard()[1:] == [(low, "open")]


def test_outside_of_its_hours_a_channel_is_silent_and_then_tells_what_stands(db: Database) -> None:
    world = World(db, hours=["mon-fri 08:00-18:00"], time_zone="UTC")
    saturday = 1_763_769_600  # 2025-11-22 00:00 UTC
    world.now = saturday * S
    world.channel.run_once()
    stands, gone = world.opens(), world.opens(device="other")
    world.passes(60)
    world.becomes(gone, "resolved")
    world.passes(60)
    assert world.taker.told == []
    world.now = (saturday + 2 * 86400 + 8 * 3600 - 2) * S
    world.passes(1)
    assert world.taker.told == []
    world.passes(5)
    assert world.taker.heard() == [(stands, "open")]


def test_a_flood_is_few_messages_the_worst_first_and_the_rate_holds(db: Database) -> None:
    world = World(db, per_minute=2)
    world.taker.most = 10
    ids = [world.opens("critical" if n % 7 == 0 else "low", device=f"d{n}") for n in range(35)]
    world.passes(9)
    world.passes(240)
    assert sorted(world.taker.heard()) == sorted((one, "open") for one in ids)
    assert {page.priority for page in world.taker.told[0][:5]} == {"critical"}
    assert [len(pages) for pages in world.taker.told] == [10, 10, 10, 5]
    for index, at in enumerate(world.taker.times):
        assert sum(at - 60 * S < other <= at for other in world.taker.times[: index + 1]) <= 2


def test_who_is_away_is_tried_again_ever_later_and_heard_once(world: World) -> None:
    one = world.opens()
    world.taker.error = NotReady("cannot be reached", 1.0)
    world.passes(600)
    (row,) = world.rows()
    assert row.error == "cannot be reached"
    assert 6 <= row.tries <= 9, "5, 10, 20, 40, 80, 160 s and 300 s apart"
    world.taker.error = None
    world.passes(310)
    assert world.taker.heard() == [(one, "open")]
    assert world.rows()[0].error == ""


def test_what_cannot_be_told_is_given_up_and_that_is_told(db: Database) -> None:
    world = World(db, give_up_s=900)
    one = world.opens()
    world.taker.error = ConfigError("notify.ops", "refused (93000: invalid webhook url)", "Check")
    world.passes(1500)
    (row,) = world.rows()
    assert (row.state, row.due_us) == ("given-up", None)
    assert "93000" in row.error
    with db.read() as session:
        (told,) = trail.rows(session, kind="notification.given-up")
    assert (told.subject, told.detail["incident"]) == ("ops", one)
    world.taker.error = None
    world.becomes(one, "resolved")
    world.passes(30)
    assert world.taker.told == [], "nobody heard of it, so its end is no news"


def test_a_crash_after_the_message_tells_it_again_and_loses_none(world: World) -> None:
    one = world.opens()
    world.taker.crash = True
    with pytest.raises(KeyboardInterrupt):
        world.passes(20)
    world.taker.crash = False
    world.restart()
    world.passes(60)
    assert world.taker.heard() == [(one, "open")], "claimed: nobody else tells it for now"
    world.passes(int(CLAIM_S))
    assert world.taker.heard() == [(one, "open")] * 2
    assert world.rows()[0].state == "notified"


def test_two_hubs_tell_it_once(world: World) -> None:
    one = world.opens()
    other = ChannelWorker(world.db, "ops", world.settings, world.taker, lambda: 0.5, lambda: world.now)
    for _ in range(30):
        world.now += S
        world.channel.run_once()
        other.run_once()
    assert world.taker.heard() == [(one, "open")]


def test_an_alertmanager_is_told_again_while_it_stands(db: Database) -> None:
    world = World(db, kind="alertmanager", resend_s=30, group_wait_s=0)
    one = world.opens()
    world.passes(100)
    world.becomes(one, "resolved")
    world.passes(100)
    assert world.taker.heard() == [(one, "open")] * 4 + [(one, "resolved")]


def test_a_channel_without_resolved_tells_beginnings_alone(db: Database) -> None:
    world = World(db, resolved=False)
    one = world.opens()
    world.passes(20)
    world.becomes(one, "resolved")
    world.passes(60)
    assert world.taker.heard() == [(one, "open")]
    assert world.rows()[0].state == "closed"


def test_nothing_new_is_no_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.opens()
    world.passes(20)

    def refused(*_: Any, **__: Any) -> Iterator[None]:
        raise AssertionError("a write where nothing is new")

    monkeypatch.setattr(world.db, "write", refused)
    world.passes(20)
