"""The life of an alarm by ISA-18.2: seen, judged, suppressed and back again, on both databases."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import get_args

import pytest
from sqlmodel import select

from cloud_hub.alarms import service as alarm_service
from cloud_hub.alarms import suppression
from cloud_hub.alarms.core.state import SuppressionMethod, isa_state
from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Incident, Suppression
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from shared.codec import decode
from shared.messages import Alarm, AlarmStateMessage, Life

NOW = 1_800_000_000_000_000
S = 1_000_000
HOUR = 3600 * S
DEVICE = "press-3"


@dataclass
class Hall:
    """A hub with one device; `say` is what it raises or clears, `pass_` is the alarms' loop."""

    db: Database

    def __post_init__(self) -> None:
        with self.db.write() as session:
            device_registry.register(session, DEVICE, NOW, actor="test")
            session.flush()
            device_registry.assign_asset_path(session, DEVICE, "acme/a/hall-2", NOW, within=None, actor="test")

    def say(
        self, number: str, state: str = "raised", at_us: int = NOW, metric: str = "cpu.load", late_us: int = 0
    ) -> None:
        alarm = Alarm(id=number, metric=metric, kind="high", state=state, priority="high", t_us=at_us, value=9, limit=2)  # type: ignore[arg-type]
        with self.db.write() as session:
            incidents.handle_alarm(session, DEVICE, alarm, at_us + late_us, "")

    def suppress(self, method: SuppressionMethod = "shelved", at_us: int = NOW, **wanted: object) -> str:
        fields = {"device": DEVICE, "reason": "cleaning", "until_us": at_us + HOUR} | wanted
        row = Suppression(id="", method=method, actor="anna", created_us=0, **({"from_us": 0} | fields))
        with self.db.write() as session:
            return suppression.create(session, row, at_us).id

    def pass_(self, at_us: int) -> list[str]:
        messages = incidents.apply_suppression_changes(self.db, at_us).messages
        return [decode(AlarmStateMessage, message.payload).id for message in messages]

    def life(self, number: str) -> Life:
        with self.db.read() as session:
            return isa_state(session.get_one(AlarmRow, number))

    def called(self) -> list[str]:
        """Alarms of incidents: somebody is called for them."""
        with self.db.read() as session:
            return sorted(row.id for row in session.exec(select(AlarmRow)) if row.incident)

    def kinds(self) -> list[str]:
        with self.db.read() as session:
            assert trail.verify(session) is None
            return [row.kind for row in trail.rows(session)][::-1]


@pytest.fixture
def hall(db: Database) -> Hall:
    return Hall(db)


def test_an_alarm_is_seen_and_returns(hall: Hall) -> None:
    for number in ("a1", "a2"):
        hall.say(number, metric=f"{number}.x")
    assert hall.life("a1") == "unacknowledged"
    with hall.db.write() as session:
        row = alarm_service.get(session, "a1")
        assert alarm_service.acknowledge(session, row, NOW + S, actor="anna", comment="fan")
        assert not alarm_service.acknowledge(session, row, NOW + 2 * S, actor="bob")
        assert alarm_service.acknowledge(session, row, NOW + 3 * S, actor="bob", comment="fan replaced")
    assert hall.life("a1") == "acknowledged"
    hall.say("a1", "cleared", metric="a1.x")
    hall.say("a2", "cleared", metric="a2.x")
    assert (hall.life("a1"), hall.life("a2")) == ("normal", "returned-unacknowledged")
    with hall.db.read() as session:
        row = alarm_service.get(session, "a1")
        assert (row.acked_us, row.acked_by, row.comment) == (NOW + S, "anna", "fan replaced")
    assert [kind for kind in hall.kinds() if kind.startswith("alarm.") and "raised" not in kind] == [
        "alarm.acknowledged", "alarm.commented", "alarm.cleared", "alarm.cleared",
    ]  # fmt: skip


def test_the_last_verdict_counts_and_acknowledges(hall: Hall) -> None:
    hall.say("a1")
    with hall.db.write() as session:
        row = alarm_service.get(session, "a1")
        alarm_service.set_verdict(session, row, "real", NOW + S, actor="anna")
        alarm_service.set_verdict(session, row, "false-alarm", NOW + 2 * S, actor="bob", comment="backup")
    with hall.db.read() as session:
        row = alarm_service.get(session, "a1")
    assert (row.verdict, row.verdict_us, row.verdict_by, row.comment) == ("false-alarm", NOW + 2 * S, "bob", "backup")
    assert (row.acked_by, hall.life("a1")) == ("anna", "acknowledged")


def test_an_incident_that_is_acknowledged_acknowledges_its_alarms(hall: Hall) -> None:
    hall.say("a1")
    hall.say("a2", metric="cpu.temp")
    with hall.db.write() as session:
        incidents.acknowledge(session, session.exec(select(Incident.id)).one(), NOW + S, "anna")
    assert (hall.life("a1"), hall.life("a2")) == ("acknowledged", "acknowledged")


def test_what_is_shelved_is_recorded_calls_nobody_and_comes_back_by_itself(hall: Hall) -> None:
    hall.suppress(metric="cpu.load")
    hall.say("a1", at_us=NOW + S)
    hall.say("a2", at_us=NOW + S, metric="cpu.temp")
    assert (hall.life("a1"), hall.life("a2"), hall.called()) == ("shelved", "unacknowledged", ["a2"])
    assert hall.pass_(NOW + HOUR - 1) == []
    assert hall.pass_(NOW + HOUR) == ["a1"]
    assert (hall.life("a1"), hall.called()) == ("unacknowledged", ["a1", "a2"])
    assert hall.kinds()[-1] == "alarm.resumed"


def test_what_ended_while_shelved_calls_nobody_ever(hall: Hall) -> None:
    hall.suppress()
    hall.say("a1", at_us=NOW + S)
    hall.say("a1", "cleared", at_us=NOW + 2 * S)
    assert hall.pass_(NOW + 2 * HOUR) == []
    assert (hall.life("a1"), hall.called()) == ("normal", [])


def test_what_stands_already_is_shelved_too(hall: Hall) -> None:
    hall.say("a1")
    number = hall.suppress(at_us=NOW + S)
    assert hall.life("a1") == "shelved"
    with hall.db.write() as session:
        suppression.end(session, suppression.get(session, number), NOW + 2 * S, actor="bob")
    assert hall.pass_(NOW + 2 * S) == ["a1"]
    assert hall.life("a1") == "unacknowledged"
    with hall.db.write() as session:
        assert not suppression.unshelve(session, alarm_service.get(session, "a1"), NOW + 3 * S, actor="bob")


def test_a_window_that_begins_later_covers_a_site_from_then_on(hall: Hall) -> None:
    hall.suppress("suppressed", device="", path="acme/a", from_us=NOW + HOUR, until_us=NOW + 2 * HOUR)
    hall.suppress("suppressed", device="", path="acme/ab")
    hall.say("a1")
    assert hall.life("a1") == "unacknowledged"
    assert hall.pass_(NOW + HOUR) == ["a1"]
    assert hall.life("a1") == "suppressed"
    assert hall.pass_(NOW + 2 * HOUR) == ["a1"]
    assert hall.life("a1") == "unacknowledged"


def test_late_news_of_a_window_stay_quiet_until_it_is_known_that_they_stand(hall: Hall) -> None:
    hall.suppress("suppressed")
    for number in ("a1", "a2"):
        hall.say(number, at_us=NOW + S, late_us=5 * HOUR, metric=f"{number}.x")
    hall.say("a1", "cleared", at_us=NOW + 2 * S, late_us=5 * HOUR, metric="a1.x")
    assert hall.called() == []
    assert hall.pass_(NOW + 6 * HOUR) == ["a2"]
    assert hall.called() == ["a2"]


def test_a_device_whose_clock_is_ahead_reaches_no_window_of_the_future(hall: Hall) -> None:
    hall.suppress("suppressed", from_us=NOW + 10 * HOUR, until_us=NOW + 11 * HOUR)
    hall.say("a1", at_us=NOW + 10 * HOUR + S, late_us=-10 * HOUR)
    assert hall.life("a1") == "unacknowledged"


def test_out_of_service_lasts_until_a_person_ends_it(hall: Hall) -> None:
    number = hall.suppress("out-of-service", until_us=None)
    hall.say("a1", at_us=NOW + 1000 * HOUR)
    assert hall.life("a1") == "out-of-service"
    with hall.db.read() as session:
        assert [row.id for row in suppression.list_suppressions(session, NOW + 2000 * HOUR, active=True, limit=5)] == [
            number
        ]


def test_of_two_the_longer_counts(hall: Hall) -> None:
    hall.suppress("shelved")
    hall.suppress("suppressed", until_us=NOW + 2 * HOUR)
    hall.say("a1")
    assert hall.life("a1") == "suppressed"
    assert hall.pass_(NOW + HOUR) == []


@pytest.mark.parametrize(
    ("wanted", "status", "reason"),
    [
        ({"until_us": None}, 422, "must end"), ({"until_us": NOW + 8 * 24 * HOUR}, 422, "at most 7 days"),
        ({"until_us": NOW}, 422, "later than now"), ({"path": "acme"}, 422, "just one"),
        ({"device": ""}, 422, "just one"),
        ({"device": "", "path": "acme//x"}, 422, "no asset path"), ({"metric": "A B"}, 422, "no metric name"),
        ({"reason": " "}, 422, "why"), ({"device": "none"}, 404, "not known"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_cure(
    hall: Hall, wanted: dict[str, object], status: int, reason: str
) -> None:
    with pytest.raises(HubError) as no:
        hall.suppress(**wanted)
    assert (no.value.status, reason in no.value.detail) == (status, True)
    with hall.db.read() as session:
        assert session.exec(select(Suppression)).all() == []


def test_every_state_is_found_as_it_is_told(hall: Hall) -> None:
    """The database's condition and the rule in Python are the same."""
    many = itertools.product(["raised", "cleared"], [None, NOW], ["", "shelved", "suppressed", "out-of-service"])
    with hall.db.write() as session:
        for n, (state, acked_us, method) in enumerate(many):
            row = AlarmRow(
                id=f"a{n}", device=DEVICE, metric="m", kind="high", priority="low", state=state, value=1, limit=1,
                raised_us=NOW, received_us=NOW, acked_us=acked_us, suppressed=method,
            )  # fmt: skip
            session.add(row)
    states: tuple[Life, ...] = get_args(Life)
    with hall.db.read() as session:
        everything = alarm_service.list_alarms(session)
        for wanted in states:
            found = {row.id for row in alarm_service.list_alarms(session, life=wanted)}
            assert found == {row.id for row in everything if isa_state(row) == wanted} != set()


def test_the_word_for_others_says_what_it_is_now(hall: Hall) -> None:
    hall.say("a1")
    with hall.db.write() as session:
        row = alarm_service.get(session, "a1")
        alarm_service.set_verdict(session, row, "real", NOW, actor="anna", comment="fan")
    word = alarm_service.state_message(row, NOW + S, actor="anna")
    assert word.topic == f"tidegate/v1/things/{DEVICE}/alarms/life"
    assert decode(AlarmStateMessage, word.payload) == AlarmStateMessage(
        id="a1", metric="cpu.load", life="acknowledged", t_us=NOW + S, actor="anna", comment="fan", verdict="real"
    )


# -- pages -----------------------------------------------------------------------------------------


def pages(hall: Hall) -> list[tuple[str, str]]:
    with hall.db.read() as session:
        rows = session.exec(select(Incident).order_by(Incident.id)).all()
    numbers = {row.id: str(n) for n, row in enumerate(rows)}
    return [(row.subject, numbers[row.page]) for row in rows]


def test_one_machines_trouble_is_one_page_for_a_while(hall: Hall) -> None:
    hall.say("a1", metric="cpu.load")
    hall.say("a2", metric="disk.used", at_us=NOW + 300 * S)
    hall.say("a3", metric="net.sent", at_us=NOW + 2000 * S)
    assert pages(hall) == [("cpu", "0"), ("disk", "0"), ("net", "2")]


def site(hall: Hall, number: int, path: str) -> str:
    with hall.db.write() as session:
        device_registry.register(session, f"d{number}", NOW, actor="test")
        session.flush()
        device_registry.assign_asset_path(session, f"d{number}", path, NOW, within=None, actor="test")
    return f"d{number}"


def raised(hall: Hall, device: str, at_s: int, number: int = 0) -> None:
    alarm = Alarm(
        id=f"{device}-{number}", metric="power.volts", kind="low", state="raised", priority="high",
        t_us=NOW + at_s * S, value=1, limit=2,
    )  # fmt: skip
    with hall.db.write() as session:
        incidents.handle_alarm(session, device, alarm, NOW + at_s * S, "")


def test_what_a_site_raises_within_two_minutes_is_one_page(hall: Hall) -> None:
    """A switch that fails takes twelve machines along; one of another site is called for by itself."""
    for n in range(12):
        raised(hall, site(hall, n, f"acme/a/hall-{n}"), 10 * n)
    raised(hall, site(hall, 12, "acme/b"), 111)
    raised(hall, site(hall, 13, "acme"), 112)
    raised(hall, site(hall, 14, "acme/a/hall-9"), 900)
    assert [page for _, page in pages(hall)] == ["0"] * 12 + ["12", "13", "14"]


def test_in_a_flood_a_page_of_the_site_stays_open_for_longer(hall: Hall) -> None:
    first = site(hall, 1, "acme/a/x")
    for n in range(11):
        raised(hall, first, n, n)
    raised(hall, site(hall, 2, "acme/a/y"), 400)
    assert [page for _, page in pages(hall)] == ["0", "0"]
    raised(hall, site(hall, 3, "acme/a/z"), 1005)
    assert [page for _, page in pages(hall)] == ["0", "0", "2"], "the flood is over"


def test_a_page_takes_in_nothing_after_an_hour(hall: Hall) -> None:
    for n in range(9):
        raised(hall, DEVICE, 500 * n, n)
        hall.say(f"{DEVICE}-{n}", "cleared", at_us=NOW + (500 * n + 1) * S, metric="power.volts")
    assert [page for _, page in pages(hall)] == ["0"] * 8 + ["8"]
