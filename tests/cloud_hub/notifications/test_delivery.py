"""A channel at work on a virtual clock: one message a page, kept over crashes, tried again, given up and told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import TypeAdapter
from sqlmodel import select

from cloud_hub import clock
from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Device, Incident, Notification
from cloud_hub.incidents.service import REMOVED
from cloud_hub.notifications import Page
from cloud_hub.notifications.delivery import CLAIM_S, ChannelWorker
from cloud_hub.settings import channels
from shared.durations import HOUR_US
from shared.errors import ConfigError, NotReady
from shared.ids import uuid7

S = 1_000_000


DEFAULTS = {"group_wait_s": 10, "group_interval_s": 60, "burst": 0}


@dataclass
class Taker:
    """Keeps what it is told; fails with `error` while there is one. `crash` dies after the message went out."""

    most: int = 100
    told: list[list[Page]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    error: Exception | None = None
    crash: bool = False

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        if self.error is not None:
            raise self.error
        self.told.append(list(pages))
        self.times.append(now_us)
        if self.crash:
            raise KeyboardInterrupt

    def heard(self) -> list[tuple[str, str]]:
        return [(page.id, "open" if page.open else "resolved") for pages in self.told for page in pages]


class World:
    """A database with incidents and one channel. `passes` runs the worker when a row is due, and each half minute."""

    def __init__(self, db: Database, **settings: Any) -> None:
        raw = {"kind": "webhook", "url": "https://ops.example", **DEFAULTS, **settings}
        if raw["kind"] == "email":
            raw = {"host": "h", "sender": "a@b", "to": ["c@d"]} | {k: v for k, v in raw.items() if k != "url"}
        self.settings: Any = TypeAdapter(channels.AnyChannel).validate_python(raw)
        self.db, self.taker, self.count = db, Taker(), 0
        self.now = clock.now_us() // HOUR_US * HOUR_US  # ends are notified at multiples of an interval
        self.restart()
        self.channel.run_once()

    def restart(self) -> None:
        self.channel = ChannelWorker(self.db, "ops", self.settings, self.taker, lambda: 0.5, lambda: self.now)

    def passes(self, seconds: int) -> None:
        end = self.now + seconds * S
        self.now += S
        self.channel.run_once()
        while self.now < end:
            self.now = min(self._next_run(), end)
            self.channel.run_once()

    def _next_run(self) -> int:
        """The next second at which a row is due; one that the rate holds back is tried each five seconds."""
        due = [row.due_us for row in self.rows() if row.due_us is not None]
        next_us = min(due, default=self.now + 30 * S)
        wait_s = -(-(next_us - self.now) // S) if next_us > self.now else 5
        return self.now + min(max(wait_s, 1), 30) * S

    def opens(self, priority: str = "high", page: str = "", device: str = "press-3", suppressed: str = "") -> str:
        self.count += 1
        number = uuid7(self.now, self.count)
        with self.db.write() as session:
            session.add(Incident(id=number, device=device, subject="cpu", opened_us=self.now, page=page or number))
        self.alarm(number, priority, suppressed, device)
        return number

    def alarm(self, incident: str, priority: str = "high", suppressed: str = "", device: str = "press-3") -> None:
        self.count += 1
        with self.db.write() as session:
            session.add(
                AlarmRow(id=f"a{self.count}", device=device, metric="cpu.load", kind="high", priority=priority,
                         state="raised", value=97.0, limit=90.0, raised_us=self.now, received_us=self.now,
                         incident=incident, suppressed=suppressed)
            )  # fmt: skip

    def shelve(self, how: str) -> None:
        with self.db.write() as session:
            for row in session.exec(select(AlarmRow)):
                row.suppressed = how

    def becomes(self, incident: str, state: str) -> None:
        with self.db.write() as session:
            row = session.get(Incident, incident)
            assert row is not None
            row.state, row.resolved_us = state, self.now if state == "resolved" else None
            for alarm in session.exec(select(AlarmRow).where(AlarmRow.incident == incident)):
                if state == "acknowledged":
                    alarm.acked_us = alarm.acked_us or self.now
                elif state == "resolved":
                    alarm.state, alarm.cleared_us = "cleared", self.now

    def rows(self) -> list[Notification]:
        with self.db.read() as session:
            return list(session.exec(select(Notification).order_by(Notification.id)))


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
