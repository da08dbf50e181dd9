"""A channel at work on a virtual clock: one message a page, kept over crashes, tried again, given up and told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sqlmodel import select

from cloud_hub import audit, channels, clock
from cloud_hub.db import Database
from cloud_hub.notify import Page, plan
from cloud_hub.notify.outgoing import CLAIM_S, Channel
from cloud_hub.tables import AlarmRow, Device, Incident, Notification
from shared.errors import ConfigError, NotReady
from shared.ids import uuid7

S = 1_000_000


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
    """A database with incidents and one channel. Time goes on by `passes`, a step each second, or each five of many."""

    def __init__(self, db: Database, **settings: Any) -> None:
        raw = {"kind": "webhook", "url": "https://ops.example", "wait_s": 10, **settings}
        if raw["kind"] == "email":
            raw = {"host": "h", "sender": "a@b", "to": ["c@d"]} | {k: v for k, v in raw.items() if k != "url"}
        self.settings: Any = TypeAdapter(channels.AnyChannel).validate_python(raw)
        self.db, self.taker, self.now, self.count = db, Taker(), clock.now_us(), 0
        self.restart()
        self.channel.run_once()

    def restart(self) -> None:
        self.channel = Channel(self.db, "ops", self.settings, self.taker, lambda: 0.5, lambda: self.now)

    def passes(self, seconds: int) -> None:
        stride = 5 if seconds >= 300 else 1
        for _ in range(0, seconds, stride):
            self.now += stride * S
            self.channel.run_once()

    def opens(self, priority: str = "high", page: str = "", device: str = "press-3", suppressed: str = "") -> str:
        self.count += 1
        number = uuid7(self.now, self.count)
        with self.db.write() as session:
            session.add(Incident(id=number, device=device, subject="cpu", opened_us=self.now, page=page))
        self.alarm(number, priority, suppressed)
        return number

    def alarm(self, incident: str, priority: str = "high", suppressed: str = "") -> None:
        self.count += 1
        with self.db.write() as session:
            session.add(
                AlarmRow(id=f"a{self.count}", device="press-3", metric="cpu.load", kind="high", priority=priority,
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
    assert [(row.state, row.told, row.due_us) for row in world.rows()] == [("closed", "resolved", None)]


def test_what_belongs_to_a_page_is_told_with_it_and_it_ends_with_the_last(world: World) -> None:
    first = world.opens(device="a")
    second, third = world.opens(device="b", page=first), world.opens(device="c", page=first)
    world.passes(20)
    assert world.taker.heard() == [(first, "open")]
    assert world.taker.told[0][0].devices == ("a", "b", "c")
    world.becomes(first, "resolved")
    world.becomes(second, "resolved")
    world.passes(20)
    assert len(world.taker.told) == 1
    world.becomes(third, "resolved")
    world.passes(5)
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
    world = World(db, kind="alertmanager", resend_s=30, wait_s=0)
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
    assert world.taker.heard() == [(one, "open")] * 3, "it ended while nobody was to be called"


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
    world.channel = Channel(db, "new", world.settings, world.taker, lambda: 0.5, lambda: world.now)
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
        (told,) = audit.rows(session, kind="notification.given-up")
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
    assert world.rows()[0].state == "told"


def test_two_hubs_tell_it_once(world: World) -> None:
    one = world.opens()
    other = Channel(world.db, "ops", world.settings, world.taker, lambda: 0.5, lambda: world.now)
    for _ in range(30):
        world.now += S
        world.channel.run_once()
        other.run_once()
    assert world.taker.heard() == [(one, "open")]


def test_an_alertmanager_is_told_again_while_it_stands(db: Database) -> None:
    world = World(db, kind="alertmanager", resend_s=30, wait_s=0)
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


# -- the plan alone: any course of pages, channel and time --------------------------------------------------


@dataclass
class _Row:
    state: str = "waiting"
    wanted: str = "open"
    told: str = ""
    told_priority: str = ""
    due_us: int | None = None
    since_us: int = 0
    tries: int = 0
    device: str = ""
    error: str = ""
    told_us: int | None = None

    def set(self, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            setattr(self, name, value)


SETTINGS: Any = TypeAdapter(channels.AnyChannel).validate_python(
    {"kind": "webhook", "url": "https://a", "wait_s": 10, "give_up_s": 1e6}
)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["worse", "resolve", "down", "up", "ack", "wait"]), st.integers(1, 400)), max_size=12
)
ORDER = ("low", "medium", "high", "critical")


def told_wrong(events: list[tuple[str, int]], planner: Any = plan) -> str:
    """Play one page through `events`; what a person was told wrong, or ''."""
    now, rank, resolved, acknowledged, down = 1_000 * S, 0, None, False, False
    row: _Row | None = None
    said: list[tuple[str, int]] = []

    def page() -> Page:
        fields: dict[str, Any] = {"priority": ORDER[rank], "resolved_us": resolved, "opened_us": 1_000 * S}
        fields["acknowledged"] = acknowledged and resolved is None
        return Page(id="p", device="d", subject="s", path="", devices=("d",), alarms=(), **fields)

    for event, seconds in [*events, ("up", 1), ("wait", 700), ("resolve", 1), ("wait", 700)]:
        if event == "worse" and resolved is None:
            rank = min(rank + 1, 3)
        elif event == "resolve" and resolved is None:
            resolved = now
        elif event == "ack" and resolved is None:
            acknowledged = True
        elif event in ("up", "down"):
            down = event == "down"
        for _ in range(seconds):
            now += S
            if row is None:
                if fields := planner.first(SETTINGS, page(), now):
                    row = _Row()
                    row.set(fields)
            else:
                row.set(planner.change(SETTINGS, page(), row, now))
            if row is not None and row.due_us is not None and row.due_us <= now:
                if down:
                    row.set(planner.failed(SETTINGS, row, "down", 1.0, 0.5, now))
                    continue
                wanted = "open" if page().open else "resolved"
                said.append((wanted, rank))
                row.set({"wanted": wanted} | planner.sent(SETTINGS, page(), wanted, now))
    return _judged(said, acknowledged)


def _judged(said: list[tuple[str, int]], acknowledged: bool) -> str:
    if not said:
        return "" if acknowledged else "nobody was told"
    if said[-1][0] != "resolved":
        return "nobody was told that it is over"
    if [state for state, _ in said].count("resolved") != 1:
        return "told twice that it is over"
    ranks = [rank for state, rank in said if state == "open"]
    return "" if ranks == sorted(set(ranks)) else "told twice though it was no worse"


@given(EVENTS)
def test_whatever_happens_a_page_is_told_as_it_is_and_its_end_once(events: list[tuple[str, int]]) -> None:
    assert told_wrong(events) == ""


@pytest.mark.parametrize("broken", ["forgets what it told", "forgets the end"])
def test_the_property_finds_a_seeded_bug(broken: str) -> None:
    class Seeded:
        first, change, failed, sent = plan.first, plan.change, plan.failed, plan.sent

    seeded: Any = Seeded
    if broken == "forgets what it told":
        seeded.sent = staticmethod(lambda *a: plan.sent(*a) | {"told_priority": "low"})
    else:
        seeded.change = staticmethod(lambda s, p, r, n: {} if r.told else plan.change(s, p, r, n))
    seeded.first, seeded.failed = staticmethod(plan.first), staticmethod(plan.failed)
    if broken == "forgets what it told":
        seeded.change = staticmethod(plan.change)
    else:
        seeded.sent = staticmethod(plan.sent)
    assert told_wrong([("worse", 100), ("wait", 200)], seeded) != ""
