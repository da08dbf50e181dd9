"""A bad night as a person on call receives it: a hub's pages of a site and of devices without one, at a webhook.

Alarms come in by `incidents.alarm_changed` and leave by a channel with its default settings, on a virtual clock. What
arrived is judged by three rules: who must know is notified; nothing is notified twice; after an acknowledgement only
what is new and worse calls again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from simulators import databases
from sqlmodel import select

from cloud_hub.alarms import suppression
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Device, Incident, Suppression
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.incidents import service as incidents
from cloud_hub.notifications import RANK, Page
from cloud_hub.notifications.core import templates
from cloud_hub.notifications.delivery import ChannelWorker
from cloud_hub.settings import channels
from shared.errors import NotReady
from shared.protocol.messages import Alarm, Priority

S = 1_000_000
START = 1_800_000_000 * S
STEP_S = 10
GRACE_S = 1500
"""Two intervals, the longest wait of a burst, and a try that failed just before."""

Key = tuple[str, str]
"""Device and subject: the same trouble to a person."""


@dataclass
class Person:
    """A webhook, and what its reader knows."""

    most: int = 100
    down: bool = False
    messages: list[tuple[int, str, tuple[Page, ...]]] = field(default_factory=list)
    now_us: int = 0

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        if self.down:
            raise NotReady("cannot be reached", 1.0)
        self.messages.append((now_us, templates.title(pages, "en"), tuple(pages)))

    def calls(self) -> list[tuple[int, str, tuple[Page, ...]]]:
        """Messages with something that stands."""
        return [one for one in self.messages if any(page.open for page in one[2])]


class Night:
    """A hub with 40 machines and one channel. `wrong` is what broke a rule, as it happened."""

    def __init__(self, db: Database, *, path: str = "acme/site-a/line-{0}", machines: int = 40, **more: Any) -> None:
        self.db, self.person, self.now, self.count = db, Person(), START, 0
        raw = {"kind": "webhook", "url": "https://ops.example", **more}
        self._settings: Any = TypeAdapter(channels.AnyChannel).validate_python(raw)
        self.standing: dict[tuple[str, str], str] = {}
        self.removed: set[str] = set()
        with db.write() as session:
            for n in range(machines):
                session.add(Device(id=f"m{n:02}", assigned_path=path.format(n % 4), state="online"))
        self.restart()
        self.channel.run_once()

    def restart(self) -> None:
        self.channel = ChannelWorker(self.db, "ops", self._settings, self.person, lambda: 0.5, lambda: self.now)

    def passes(self, seconds: int) -> None:
        for _ in range(0, seconds, STEP_S):
            self.now += STEP_S * S
            with self.db.read() as session:
                due = suppression.suppression_changes(session, self.now)
            if due:
                with self.db.write() as session:
                    [incidents.apply_suppression(session, row.id, self.now) for row, _ in due]
            self.channel.run_once()

    def _change(self, device: str, metric: str, state: Any, priority: Priority) -> None:
        if state == "raised":
            self.count += 1
            self.standing[device, metric] = f"{device}-{self.count}"
        number = self.standing.pop((device, metric)) if state == "cleared" else self.standing[device, metric]
        alarm = Alarm(id=number, metric=metric, kind="high", state=state, priority=priority, t_us=self.now, value=9.0,
                      limit=8.0)  # fmt: skip
        with self.db.write() as session:
            incidents.handle_alarm(session, device, alarm, self.now, "")

    def raises(self, device: str, metric: str = "link.lost", priority: Priority = "high") -> None:
        if (device, metric) not in self.standing and device not in self.removed:
            self._change(device, metric, "raised", priority)

    def clears(self, device: str, metric: str = "link.lost") -> None:
        if (device, metric) in self.standing:
            self._change(device, metric, "cleared", "low")

    def all_clear(self) -> None:
        for device, metric in list(self.standing):
            self.clears(device, metric)

    def acknowledges(self) -> None:
        """All that the person was notified of and that stands."""
        with self.db.write() as session:
            for page in {page.id for _, _, pages in self.person.messages for page in pages}:
                for row in incidents.list_for_page(session, page):
                    incidents.acknowledge(session, row.id, self.now, "anna")

    def shelves(self, device: str, seconds: int) -> None:
        with self.db.write() as session:
            window = Suppression(
                id="",
                method="suppressed",
                device=device,
                reason="maintenance",
                actor="anna",
                created_us=0,
                from_us=0,
                until_us=self.now + seconds * S,
            )
            suppression.create(session, window, self.now)

    def removes(self, device: str) -> None:
        if device not in self.removed:
            self.removed.add(device)
            with self.db.write() as session:
                decommissioning.remove(session, device, self.now, actor="anna")
            self.standing = {key: number for key, number in self.standing.items() if key[0] != device}

    # -- the judge ---------------------------------------------------------------------------------

    def rows(self) -> list[tuple[AlarmRow, Incident | None]]:
        with self.db.read() as session:
            of = {row.id: row for row in session.exec(select(Incident))}
            return [(row, of.get(row.incident)) for row in session.exec(select(AlarmRow))]

    def unknown(self) -> list[str]:
        """Alarms that stood longer than the grace and that no message named, though nobody had acknowledged as bad."""
        named = {
            (alarm.device, alarm.metric) for _, _, pages in self.person.messages for page in pages
            for alarm in page.alarms
        }  # fmt: skip
        seen: dict[str, int] = {}
        for row, incident in self.rows():
            if incident is not None and row.acked_us is not None:
                seen[incident.page] = max(seen.get(incident.page, -1), RANK[row.priority])
        return [
            f"{row.device} {row.metric}"
            for row, incident in self.rows()
            if incident is not None and not row.suppressed and row.cleared_reason == ""
            if RANK[row.priority] > seen.get(incident.page, -1) and (row.device, row.metric) not in named
            if (row.cleared_us or self.now) - row.received_us > GRACE_S * S
        ]

    def again(self) -> list[str]:
        """Calls that brought nothing new: the same trouble, no worse, of a page that was not over in between."""
        wrong, known = [], dict[str, dict[Key, int]]()
        for at_us, title, pages in self.person.messages:
            for page in pages:
                before, now = known.get(page.id, {}), dict[Key, int]()
                for one in page.incidents:
                    now[one.device, one.subject] = max(now.get((one.device, one.subject), -1), one.rank())
                if page.open and before and all(rank <= before.get(key, -1) for key, rank in now.items()):
                    wrong.append(f"{(at_us - START) / S:.0f} s: {title}")
                known[page.id] = {} if not page.open else {
                    key: max(rank, before.get(key, -1)) for key, rank in now.items()
                }  # fmt: skip
        return wrong

    def open_ended(self) -> list[str]:
        """Pages whose last message says that they stand, though they are over."""
        last = {page.id: page for _, _, pages in self.person.messages for page in pages}
        with self.db.read() as session:
            standing = {row.page for row in session.exec(select(Incident).where(Incident.state != "resolved"))}
        return [page.id for page in last.values() if page.open and page.id not in standing]

    def wrong(self) -> list[str]:
        return [f"{kind}: {one}" for kind, found in (
            ("never notified", self.unknown()), ("notified twice", self.again()), ("end unknown", self.open_ended())
        ) for one in found]  # fmt: skip


@pytest.fixture
def lite(tmp_path: Path) -> Any:
    db = Database(databases.sqlite(tmp_path))
    yield db
    db.close()


def switch_fails(night: Night, machines: range = range(30), seconds: int = 60) -> None:
    for n in machines:
        night.raises(f"m{n:02}")
        night.passes(max(STEP_S, seconds // len(machines)))


def test_a_switch_that_fails_is_one_call_and_one_that_says_who_joined(lite: Database) -> None:
    night = Night(lite)
    switch_fails(night)
    night.passes(600)
    assert len(night.person.calls()) == 2, [title for _, title, _ in night.person.messages]
    (_, _, (first,)), (_, _, (second,)) = night.person.calls()
    assert set(first.devices) | set(second.joined) == {f"m{n:02}" for n in range(30)}
    night.all_clear()
    night.passes(900)
    assert [title for _, title, _ in night.person.messages][2:] == ["[resolved] m00 (+29) link"]
    assert night.wrong() == []


def test_without_asset_paths_the_same_is_a_few_messages_of_many_pages(lite: Database) -> None:
    night = Night(lite, path="")
    switch_fails(night)
    night.passes(600)
    assert 1 < len(night.person.calls()) <= 5
    night.all_clear()
    night.passes(900)
    assert len(night.person.messages) - len(night.person.calls()) == 1, "their ends are one message"
    assert night.wrong() == []


def test_another_machine_that_fails_while_a_page_stands_is_notified(lite: Database) -> None:
    """The case of a site whose page stands all night."""
    night = Night(lite)
    night.raises("m00")
    night.passes(90)
    night.raises("m07", "temperature")
    night.passes(400)
    assert [page.joined for _, _, pages in night.person.messages for page in pages] == [(), ("m07",)]
    assert night.wrong() == []


def test_a_machine_that_flaps_all_night_is_few_messages(lite: Database) -> None:
    night = Night(lite)
    for _ in range(25):
        night.raises("m03")
        night.passes(60)
        night.clears("m03")
        night.passes(60)
    night.passes(3600)
    assert len(night.person.messages) <= 6, [title for _, title, _ in night.person.messages]
    assert night.wrong() == []


def test_after_an_acknowledgement_worse_calls_and_the_same_does_not(lite: Database) -> None:
    night = Night(lite)
    switch_fails(night, range(5), 25)
    night.passes(60)
    night.acknowledges()
    before = len(night.person.calls())
    night.raises("m20", "temperature", "medium")
    night.passes(600)
    assert len(night.person.calls()) == before
    night.raises("m21", "temperature", "critical")
    night.passes(60)
    assert [page.device for _, _, pages in night.person.calls()[before:] for page in pages] == ["m21"]


def test_a_removal_in_the_middle_ends_its_part_and_the_page_goes_on(lite: Database) -> None:
    night = Night(lite)
    night.raises("m00", priority="critical")
    night.passes(60)
    night.raises("m01")
    night.removes("m00")
    night.passes(900)
    last = night.person.messages[-1][2][0]
    assert (last.open, last.devices) == (True, ("m01",))
    night.removes("m01")
    night.passes(900)
    assert not night.person.messages[-1][2][0].open
    assert night.wrong() == []


def test_a_receiver_that_is_down_for_an_hour_gets_what_stands_and_what_was_once(lite: Database) -> None:
    night = Night(lite)
    night.person.down = True
    switch_fails(night, range(10), 50)
    night.passes(1200)
    night.clears("m00")
    night.passes(2400)
    night.restart()
    night.person.down = False
    night.passes(600)
    assert len(night.person.messages) == 1
    assert len(night.person.messages[0][2][0].devices) == 10
    night.all_clear()
    night.passes(900)
    assert night.wrong() == []


def test_maintenance_is_silent_and_what_stands_after_it_calls(lite: Database) -> None:
    night = Night(lite)
    night.shelves("m05", 1800)
    night.raises("m05")
    night.passes(1200)
    assert night.person.messages == []
    night.passes(1200)
    assert [title for _, title, _ in night.person.messages] == ["[high] m05 link"]
    night.all_clear()
    night.passes(900)
    assert night.wrong() == []


KINDS = ["raise"] * 3 + ["clear"] * 2 + ["ack", "down", "up", "restart", "shelve", "remove", "storm"]
ACTS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 11), st.sampled_from(["link.lost", "temperature"]),
        st.sampled_from(["low", "medium", "high", "critical"]), st.sampled_from([5, 20, 60, 320]),
    ),
    min_size=1, max_size=14,
)  # fmt: skip


def play(night: Night, acts: list[tuple[str, int, str, Any, int]]) -> list[str]:
    for act, n, metric, priority, seconds in acts:
        device = f"m{n:02}"
        doing: dict[str, Callable[[], None]] = {
            "raise": lambda: night.raises(device, metric, priority),  # noqa: B023 - called in this round
            "clear": lambda: night.clears(device, metric),  # noqa: B023
            "ack": night.acknowledges, "restart": night.restart,
            "down": lambda: setattr(night.person, "down", True), "up": lambda: setattr(night.person, "down", False),
            "shelve": lambda: night.shelves(device, 120) if device not in night.removed else None,  # noqa: B023
            "remove": lambda: night.removes(device),  # noqa: B023
            "storm": lambda: switch_fails(night, range(12), 60),
        }  # fmt: skip
        doing[act]()
        night.passes(seconds)
    night.person.down = False
    night.passes(GRACE_S)
    wrong = night.wrong()
    night.all_clear()
    night.passes(4 * 3600 if len(night.person.messages) > 20 else 2 * 3600)
    return wrong + night.wrong()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTS, st.sampled_from(["acme/site-a/line-{0}", ""]))
def test_whatever_the_night_brings_no_rule_is_broken(
    tmp_path_factory: pytest.TempPathFactory, acts: list[Any], path: str
) -> None:
    db = Database(databases.sqlite(tmp_path_factory.mktemp("night")))
    try:
        assert play(Night(db, path=path, machines=12), acts) == []
    finally:
        db.close()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))])
def test_a_night_by_chance_breaks_no_rule(lite: Database, seed: int) -> None:
    chance = random.Random(seed)
    acts = [
        (chance.choice(KINDS), chance.randrange(12), chance.choice(["link.lost", "temperature"]),
         chance.choice(list(RANK)), chance.choice([5, 20, 60]))
        for _ in range(12)
    ]  # fmt: skip
    assert play(Night(lite, machines=12), acts) == []
