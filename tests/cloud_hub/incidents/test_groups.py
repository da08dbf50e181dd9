"""Merging and splitting groups over REST, and what is notified of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from simulators.births import born
from sqlalchemy import insert
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Device, Incident, Notification
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.devices import tags
from cloud_hub.errors import HubError
from cloud_hub.incidents import groups, regrouping
from cloud_hub.incidents import service as incidents
from cloud_hub.notifications import Page
from cloud_hub.notifications.delivery import ChannelWorker
from cloud_hub.settings.channels import Webhook
from shared.protocol.messages import Alarm, Birth

NOW = 1_800_000_000_000_000


def alarmed(db: Database, *devices: str, at_us: int = NOW) -> list[str]:
    """An incident of each device, of no site: each alone; returns their ids."""
    ids = []
    for name in devices:
        with db.write() as session:
            born(session, Birth(device=name, session="s", epoch="e"), NOW)
            alarm = Alarm(id=new_id(), metric="cpu.load", kind="high", state="raised", priority="high", t_us=at_us,
                          value=99, limit=95)  # fmt: skip
            incidents.handle_alarm(session, name, alarm, at_us, "")
            ids.append(session.exec(select(Incident.id).where(Incident.device == name)).one())
    return ids


def merge(db: Database, into: str, *others: str) -> Incident:
    with db.write() as session:
        return groups.merge(session, into, others, NOW, actor="anna", reason="same pump")


def split(db: Database, one: str, *others: str) -> Incident:
    with db.write() as session:
        return groups.split(session, one, others, NOW, actor="anna", reason="another pump")


def pages(db: Database) -> dict[str, tuple[str, bool]]:
    with db.read() as session:
        return {row.device: (row.page, row.leads) for row in session.exec(select(Incident))}


@pytest.mark.sql
def test_a_merge_and_a_split_change_the_group_and_say_so(db: Database) -> None:
    a, b, c = alarmed(db, "a", "b", "c")
    assert merge(db, a, b, c).id == a
    assert pages(db) == {"a": (a, True), "b": (a, False), "c": (a, False)}
    with db.read() as session:
        assert session.get_one(Incident, b).joined_because == "merged by anna: same pump"
        assert [row.id for row in groups.list_leads(session, 10)] == [a]
        assert groups.summaries(session, [a])[a].members == 3
    assert split(db, c).id == c
    assert pages(db) == {"a": (a, True), "b": (a, False), "c": (c, True)}
    with db.read() as session:
        said = [(row.kind, row.actor) for row in trail.rows(session) if row.kind.startswith("incident.")]
    assert said[:3] == [("incident.split", "anna"), ("incident.merged", "anna"), ("incident.merged", "anna")]


def test_the_first_incident_of_a_group_may_be_split_off(db: Database) -> None:
    a, b, c = alarmed(db, "a", "b", "c")
    merge(db, a, b, c)
    split(db, a)
    assert pages(db) == {"a": (a, True), "b": (b, True), "c": (b, False)}
    split(db, b, c)
    assert pages(db)["c"] == (c, True)


@pytest.mark.parametrize(
    ("do", "status"),
    [
        (lambda db, a, b: merge(db, a, a), 409),
        (lambda db, a, b: merge(db, a), 422),
        (lambda db, a, b: merge(db, a, "nothing"), 404),
        (lambda db, a, b: split(db, a), 409),
        (split, 409),
        (lambda db, a, b: merge(db, a, *[b] * 101), 422),
    ],
    ids=["itself", "nothing", "unknown", "alone", "another group", "too many"],
)
def test_what_cannot_be_merged_or_split_is_refused(db: Database, do: Any, status: int) -> None:
    a, b = alarmed(db, "a", "b")
    with pytest.raises(HubError) as error:
        do(db, a, b)
    assert error.value.status == status
    assert len({page for page, _ in pages(db).values()}) == 2


def test_a_scope_changes_no_group_that_it_does_not_see_whole(db: Database) -> None:
    a, b, c = alarmed(db, "a", "b", "c")
    with db.write() as session:
        for name, path in (("a", "acme/a"), ("b", "acme/a"), ("c", "acme/b")):
            session.get_one(Device, name).assigned_path = path
    merge(db, b, c)
    with pytest.raises(HubError) as error, db.write(scope=("acme/a",)) as session:
        groups.merge(session, a, [b], NOW, actor="bob", reason="x")
    assert error.value.status == 403
    with db.read(scope=("acme/b",)) as session:
        assert [row.id for row in groups.list_leads(session, 10)] == [c], "a group is seen by the member that is seen"


def test_the_incidents_of_a_removed_device_merge_but_take_in_no_open_one(db: Database) -> None:
    a, b = alarmed(db, "a", "b")
    with db.write() as session:
        decommissioning.remove(session, "a", NOW, actor="anna")
    with pytest.raises(HubError) as error:
        merge(db, a, b)
    assert error.value.status == 409
    assert merge(db, b, a).id == b
    assert {page for page, _ in pages(db).values()} == {b}


def test_merges_at_the_same_time_leave_one_group_with_one_lead(db: Database) -> None:
    ids = alarmed(db, *"abcdef")
    pairs = list(zip(ids, ids[1:] + ids[:1], strict=True))

    statuses: list[int] = []

    def run(one: str, other: str) -> None:
        try:
            merge(db, one, other)
        except HubError as error:
            statuses.append(error.status)

    threads = [threading.Thread(target=run, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {409}, "two that are one group already"
    found = pages(db)
    assert len({page for page, _ in found.values()}) == 1
    assert sum(leads for _, leads in found.values()) == 1


@pytest.mark.one_database
def test_a_group_of_five_thousand_is_listed_in_parts_merged_and_split(db: Database) -> None:
    (a,) = alarmed(db, "a")
    with db.write() as session:
        texts = dict.fromkeys(
            ("traceparent", "service", "resolved_by", "resolution", "joined_because", "placed_by"), ""
        )
        rows = [
            texts | {"id": f"m{n:05}", "device": f"d{n}", "subject": "cpu", "state": "open", "opened_us": NOW,
                     "page": "m00000", "leads": n == 0, "silent": False}
            for n in range(5000)
        ]  # fmt: skip
        session.connection().execute(insert(Incident), rows)
    merge(db, a, "m00001")
    with db.write() as session:
        assert len(incidents.acknowledge_all(session, incidents.list_for_page(session, a), NOW, "anna")) == 1
    with db.read() as session:
        assert groups.summaries(session, [a])[a].members == 5001
        first = groups.members(session, a, limit=1000)
        assert len(first) == 1000
        assert groups.members(session, a, after=first[-1].id, limit=1000)[0].id > first[-1].id
    split(db, a)
    assert pages(db)["a"] == (a, True)
    with db.read() as session:
        assert groups.summaries(session, ["m00000"])["m00000"].members == 5000


@pytest.mark.one_database
def test_a_device_that_invents_names_has_a_bounded_number_of_incidents(db: Database) -> None:
    with db.write() as session:
        born(session, Birth(device="a", session="s", epoch="e"), NOW)
    for start in range(0, 2000, 500):
        batch = [Alarm(id=f"x{n}", metric=f"name{n}.x", kind="high", state="raised", priority="low", t_us=NOW, value=1,
                       limit=0) for n in range(start, start + 500)]  # fmt: skip
        with db.write() as session:
            incidents.handle_alarms(session, "a", batch, NOW, "")
    with db.read() as session:
        rows = session.exec(select(Incident)).all()
        assert len(rows) == incidents.MAX_SUBJECTS + 1
        assert len({row.page for row in rows}) == 1
        assert len(session.exec(select(AlarmRow)).all()) == 2000


# -- notifications -----------------------------------------------------------------------------------


class Inbox:
    """A channel that keeps what it is sent."""

    most = 20

    def __init__(self) -> None:
        self.sent: list[tuple[str, bool, tuple[str, ...]]] = []
        self.named: list[str] = []

    def send(self, sent: Any, now_us: int) -> None:
        self.named += [page.device for page in sent]
        self.sent += [(page.id, page.open, tuple(sorted(page.devices))) for page in sent if isinstance(page, Page)]


class Channel:
    """A channel on a virtual clock."""

    def __init__(self, db: Database) -> None:
        self.now, self.inbox = NOW, Inbox()
        settings = Webhook(kind="webhook", url="http://127.0.0.1:9/", group_wait_s=10, group_interval_s=60)
        self._worker = ChannelWorker(db, "ops", settings, self.inbox, lambda: 0.5, lambda: self.now)

    def run(self, seconds: int = 300) -> list[tuple[str, bool, tuple[str, ...]]]:
        """What is sent within this time."""
        before = len(self.inbox.sent)
        for _ in range(seconds // 15):
            self.now += 15_000_000
            self._worker.run_once()
        return self.inbox.sent[before:]


@pytest.fixture
def channel(db: Database) -> Channel:
    one = Channel(db)
    one.run(15)
    return one


@pytest.mark.sql
def test_a_merged_incident_is_not_notified_anew_and_a_split_one_is(db: Database, channel: Channel) -> None:
    a, b = alarmed(db, "a", "b", at_us=channel.now)
    assert sorted(channel.run()) == [(a, True, ("a",)), (b, True, ("b",))]
    merge(db, a, b)
    assert channel.run(900) == []
    split(db, b)
    assert channel.run(900) == [(b, True, ("b",))]


def test_what_was_notified_of_a_group_goes_on_when_its_first_incident_is_split_off(
    db: Database, channel: Channel
) -> None:
    a, b, c = alarmed(db, "a", "b", "c", at_us=channel.now)
    assert len(channel.run()) == 3
    merge(db, a, b, c)
    assert channel.run() == []
    split(db, a)
    assert channel.run(900) == [(a, True, ("a",))], "only what was split off"


def test_what_was_never_notified_is_notified_once_after_a_merge(db: Database, channel: Channel) -> None:
    (a,) = alarmed(db, "a", at_us=channel.now)
    channel.run()
    (b,) = alarmed(db, "b", at_us=channel.now)
    merge(db, a, b)
    assert channel.run(900) == [(a, True, ("a", "b"))]


def test_a_page_that_is_merged_while_it_is_sent_is_not_notified_anew(db: Database, channel: Channel) -> None:
    a, b = alarmed(db, "a", "b", at_us=channel.now)
    send = channel.inbox.send

    def merged_meanwhile(sent: Any, now_us: int) -> None:
        send(sent, now_us)
        if len({page for page, _ in pages(db).values()}) == 2 and any(page.id == b for page in sent):
            merge(db, a, b)

    channel.inbox.send = merged_meanwhile  # type: ignore[method-assign]
    sent = channel.run(900)
    assert sum("b" in devices for _, is_open, devices in sent) == 1
    with db.read() as session:
        states = {row.page: row.state for row in session.exec(select(Notification))}
    assert states == {a: "notified", b: "closed"}


def test_the_devices_behind_a_failed_switch_are_one_notification_that_names_it(db: Database, channel: Channel) -> None:
    with db.write() as session:
        for name in ("press-1", "press-2", "switch-3"):
            born(session, Birth(device=name, session="s", epoch="e"), NOW)
            if name != "switch-3":
                tags.change(session, session.get_one(Device, name), {"depends_on": "switch-3"}, NOW, actor="anna")
    for name in ("press-1", "press-2", "switch-3"):
        silent = Alarm(id=new_id(), metric="m.x", kind="high", state="raised", priority="low", t_us=channel.now,
                       value=60, limit=30, about="no-data")  # fmt: skip
        with db.write() as session:
            incidents.handle_alarm(session, name, silent, channel.now, "")
    while regrouping.run_once(db, channel.now).again:
        pass
    first = pages(db)["press-1"][0]
    assert [(page, sorted(devices)) for page, _, devices in channel.run(900)] == [
        (first, ["press-1", "press-2", "switch-3"])
    ]
    assert channel.inbox.named == ["switch-3"]
