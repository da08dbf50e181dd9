"""From an alarm to a resolved incident, on a virtual clock, and again with the hub killed between any two steps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from simulators import databases
from simulators.actions import action_service
from simulators.births import born
from simulators.gateways import running_gateway
from simulators.glm import GlmSimulator
from sqlmodel import select

from cloud_hub.actions import worker as actions
from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, AlarmRow, Command, Device, Incident
from cloud_hub.devices import commands
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents import worker as diagnosis
from cloud_hub.incidents.core import grouping
from cloud_hub.incidents.core.grouping import AlarmSpan
from cloud_hub.inference.gateway.blocking import GatewayModel
from cloud_hub.settings import Actions
from cloud_hub.twins import service as twins
from shared.protocol.codec import decode, encode
from shared.protocol.messages import Alarm, Birth, CommandRequest, CommandResult

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
DEVICE = "press-3"
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
SETTINGS = Actions(cooldown_s=600, verify_s=30)
pytestmark = pytest.mark.one_database


def alarm(
    number: str = "a1", metric: str = "digits/age_s", state: str = "raised", t_us: int = NOW, value: float = 9
) -> Alarm:
    return Alarm(
        id=number, metric=metric, kind="high", state=state, priority="high", t_us=t_us, value=value, limit=2.0,  # type: ignore[arg-type]
    )  # fmt: skip


@dataclass
class Story:
    """A hub on disk and the device it talks to. `reopen` closes and opens the database before each step."""

    url: str
    reopen: bool = False
    now: int = NOW
    starts: int = 1
    effects: list[str] = field(default_factory=list)
    done: dict[str, CommandResult] = field(default_factory=dict)
    _db: Database | None = None

    @property
    def db(self) -> Database:
        if self._db is not None and self.reopen:
            self.close()
        self._db = self._db or Database(self.url)
        return self._db

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    def begin(self) -> None:
        with self.db.write() as session:
            born(session, Birth(device=DEVICE, session="s1", epoch="e1"), self.now)
        self.report()

    def report(self) -> None:
        state = {"models": {"digits": {"state": "running", "starts": self.starts}}}
        with self.db.write() as session:
            body = encode({"state": {"reported": state}})
            twins.handle_request(session, DEVICE, "", "update", body, self.now, actor=DEVICE, max_bytes=32768)

    def hear(self, *alarms: Alarm) -> None:
        for one in alarms:
            with self.db.write() as session:
                incidents.handle_alarm(session, DEVICE, one, self.now, TRACE)

    def diagnose(self, engine: Any = None) -> bool:
        return bool(diagnosis.run_once(self.db, engine, action_service(SETTINGS)).wake)

    def step(self, after_s: float = 0.5, publish: bool = True) -> list[CommandRequest]:
        """One step of the actions' loop; what it publishes reaches the device, unless the hub died before."""
        self.now += int(after_s * SECOND)
        messages = actions.run_once(self.db, action_service(SETTINGS), self.now).messages
        return [decode(CommandRequest, m.payload) for m in messages if m.topic.endswith("/request")] if publish else []

    def carry_out(self, request: CommandRequest, state: str = "succeeded") -> None:
        """The device: one effect an id, and the same answer again."""
        if request.id not in self.done:
            self.effects.append(f"{request.verb} {request.target}")
            if state == "succeeded" and request.verb == "restart":
                self.starts += 1
            output = {"yes (pid 7)": 98.0} if request.verb == "diagnose" else {}
            self.done[request.id] = CommandResult(id=request.id, state=state, t_us=self.now, output=output)  # type: ignore[arg-type]
        with self.db.write() as session:
            commands.handle_result(session, DEVICE, self.done[request.id], self.now)

    def resend(self) -> list[CommandRequest]:
        """What a birth brings: commands that still wait."""
        with self.db.write() as session:
            messages = commands.pending_messages(session, DEVICE, self.now)
        return [decode(CommandRequest, m.payload) for m in messages if m.topic.endswith("/request")]

    def actions(self) -> list[Action]:
        with self.db.read() as session:
            return list(session.exec(select(Action).order_by(Action.id)))

    def incident(self) -> Incident:
        with self.db.read() as session:
            (row,) = session.exec(select(Incident)).all()
            return row

    def kinds(self) -> list[str]:
        with self.db.read() as session:
            assert trail.verify(session) is None
            return [row.kind for row in trail.rows(session)][::-1]


@pytest.fixture(params=[False, True], ids=["running", "killed-at-every-step"])
def story(request: pytest.FixtureRequest, url: str) -> Iterator[Story]:
    one = Story(url, reopen=request.param)
    one.begin()
    yield one
    one.close()


# -- incidents -------------------------------------------------------------------------------------


def test_alarms_about_one_subject_are_one_incident(story: Story) -> None:
    story.hear(alarm("a1"), alarm("a2", "digits/drift"), alarm("a3", "cpu.load"), alarm("a1"))
    with story.db.read() as session:
        rows = session.exec(select(Incident).order_by(Incident.subject)).all()
        assert [row.subject for row in rows] == ["cpu", "digits"]
        assert [a.id for a in incidents.alarms(session, rows[1].id)] == ["a1", "a2"]


@pytest.mark.sql
def test_an_incident_is_resolved_when_its_last_alarm_clears(story: Story) -> None:
    story.hear(alarm("a1"), alarm("a2", "digits/drift"), alarm("a1", state="cleared"))
    assert story.incident().state == "open"
    story.hear(alarm("a2", "digits/drift", state="cleared", t_us=NOW + SECOND))
    assert story.incident().state == "resolved"
    story.hear(alarm("a4"))
    with story.db.read() as session:
        assert len(session.exec(select(Incident)).all()) == 2  # what comes later is another one


def test_clearing_an_unknown_alarm_is_ignored(story: Story) -> None:
    story.hear(alarm("a9", state="cleared"))
    with story.db.read() as session:
        assert session.exec(select(Incident)).all() == []
        assert session.exec(select(AlarmRow)).all() == []


def test_a_device_cannot_clear_the_alarm_of_another(story: Story) -> None:
    story.hear(alarm("a1"))
    with story.db.write() as session:
        incidents.handle_alarm(session, "press-4", alarm("a1", state="cleared"), NOW, "")
    assert story.incident().state == "open"


@pytest.mark.sql
def test_acknowledging_twice_is_one_row(story: Story) -> None:
    story.hear(alarm())
    number = story.incident().id
    for _ in range(2):
        with story.db.write() as session:
            assert incidents.acknowledge(session, number, NOW, "anna").state == "acknowledged"
    assert story.kinds().count("incident.acknowledged") == 1
    with story.db.write() as session, pytest.raises(HubError) as no:
        incidents.acknowledge(session, "nothing", NOW, "anna")
    assert no.value.status == 404


# -- the whole way ---------------------------------------------------------------------------------


@pytest.mark.sql
def test_from_alarm_to_resolved(story: Story) -> None:
    story.hear(alarm())
    assert story.diagnose()
    assert not story.diagnose()
    found = story.incident().diagnosis
    assert found is not None
    assert (found["cause"], found["author"]) == ("model-stalled", "rules")
    assert [a.state for a in story.actions()] == ["approved"]
    (request,) = story.step()
    assert (request.verb, request.target) == ("restart", "digits")
    assert story.step() == []
    story.carry_out(request)
    story.step()
    assert [a.state for a in story.actions()] == ["executed"]  # the twin does not show it yet
    story.report()
    story.step()
    assert [a.state for a in story.actions()] == ["verified"]
    assert story.incident().state == "open"
    story.hear(alarm(state="cleared", t_us=NOW + 3 * SECOND))
    assert story.incident().state == "resolved"
    assert story.effects == ["restart digits"]
    order = ["alarm.raised", "incident.diagnosed", "action.approved", "command.sent", "action.executing",
             "command.succeeded", "action.executed", "action.verified", "incident.resolved"]  # fmt: skip
    kinds = [kind for kind in story.kinds() if kind in order]
    assert kinds == order
    with story.db.read() as session:
        rows = trail.rows(session, trace="ab" * 16)
    assert {row.kind for row in rows} >= set(order)  # one trace from the alarm to the end


def test_an_incident_waits_for_its_action_even_when_the_alarm_has_cleared(story: Story) -> None:
    story.hear(alarm())
    story.diagnose()
    (request,) = story.step()
    story.hear(alarm(state="cleared"))
    assert story.incident().state == "open"
    story.carry_out(request)
    story.report()
    story.step()
    assert story.incident().state == "resolved"


def test_a_hub_killed_before_it_could_publish_sends_the_command_with_the_next_birth(story: Story) -> None:
    story.hear(alarm())
    story.diagnose()
    assert story.step(publish=False) == []  # committed, never published
    assert story.step() == []  # and not sent twice by the loop
    for _ in range(3):
        for request in story.resend():
            story.carry_out(request)
    story.report()
    story.step()
    assert [a.state for a in story.actions()] == ["verified"]
    assert story.effects == ["restart digits"]
    with story.db.read() as session:
        assert len(session.exec(select(Command)).all()) == 1


def test_a_repeated_command_result_counts_once(story: Story) -> None:
    story.hear(alarm())
    story.diagnose()
    (request,) = story.step()
    for _ in range(3):
        story.carry_out(request)
    assert story.kinds().count("command.succeeded") == 1
    assert story.effects == ["restart digits"]


def test_a_diagnose_command_adds_evidence_and_the_diagnosis_is_repeated_once(story: Story) -> None:
    story.hear(alarm(metric="cpu.load", value=99))
    story.diagnose()
    (request,) = story.step()
    assert (request.verb, request.target) == ("diagnose", "processes")
    story.carry_out(request)
    story.step()
    assert story.diagnose()
    found = story.incident().diagnosis
    assert found is not None
    assert "top process: yes (pid 7) (98)" in found["explanation"]
    assert not story.diagnose()
    assert len(story.actions()) == 1


def test_an_engine_that_always_asks_for_diagnose_is_not_called_again(story: Story) -> None:
    with GlmSimulator(key="") as server, running_gateway(story.db, _pool(server)) as gateway:
        engine = GatewayModel(gateway)
        story.hear(alarm(metric="cpu.load", value=99))
        for _ in range(8):
            story.diagnose(engine)
            for request in story.step():
                story.carry_out(request)
            story.step()
        assert len(server.requests) <= 3
        assert len(story.effects) <= 2


def _pool(server: GlmSimulator) -> dict[str, Any]:
    return {"name": "large", "addresses": [server.url], "model": server.model}


# -- what goes wrong -------------------------------------------------------------------------------


def test_an_unanswered_command_fails_the_action(story: Story) -> None:
    story.hear(alarm())
    story.diagnose()
    story.step()
    story.step(after_s=SETTINGS.verify_s - 1)
    assert [a.state for a in story.actions()] == ["executing"]
    story.step(after_s=2)
    (action,) = story.actions()
    assert (action.state, action.outcome) == (
        "failed", "the command was expired: the device did not answer in time",
    )  # fmt: skip
    assert story.resend() == []  # and it is not sent any more


def test_a_refused_command_fails_the_action_with_the_reason(story: Story) -> None:
    story.hear(alarm())
    story.diagnose()
    (request,) = story.step()
    with story.db.write() as session:
        word = CommandResult(id=request.id, state="refused", t_us=story.now, text="this device has no 'digits'")
        commands.handle_result(session, DEVICE, word, story.now)
    story.step()
    (action,) = story.actions()
    assert (action.state, action.outcome) == ("failed", "the command was refused: this device has no 'digits'")


def test_an_accepted_command_is_not_a_result(story: Story) -> None:
    story.hear(alarm())
    story.diagnose()
    (request,) = story.step()
    with story.db.write() as session:
        commands.handle_result(session, DEVICE, CommandResult(id=request.id, state="accepted", t_us=NOW), story.now)
    story.step()
    assert [a.state for a in story.actions()] == ["executing"]
    story.carry_out(request)
    story.report()
    story.step()
    assert [a.state for a in story.actions()] == ["verified"]


def test_a_result_of_another_device_is_ignored(story: Story) -> None:
    story.hear(alarm())
    story.diagnose()
    (request,) = story.step()
    with story.db.write() as session:
        commands.handle_result(session, "press-4", CommandResult(id=request.id, state="failed", t_us=NOW), story.now)
        commands.handle_result(session, DEVICE, CommandResult(id="another", state="failed", t_us=NOW), story.now)
    story.step()
    assert [a.state for a in story.actions()] == ["executing"]


def test_a_restart_that_the_twin_never_shows_fails(story: Story) -> None:
    story.hear(alarm())
    story.diagnose()
    (request,) = story.step()
    story.carry_out(request)  # says succeeded, yet nothing is reported
    story.step()
    story.step(after_s=SETTINGS.verify_s + 1)
    (action,) = story.actions()
    assert (action.state, action.outcome) == ("failed", "the twin did not show it within 30 s")
    story.hear(alarm(state="cleared"))
    assert story.incident().state == "resolved"


# -- the same alarms, counted without a hub --------------------------------------------------------


def course(seed: int) -> list[AlarmSpan]:
    """Alarms of four devices on two sites, some close together and some alone, and one flood."""
    chance, found, t_us = random.Random(seed), [], NOW
    for n in range(120):
        t_us += chance.choice([1, 20, 90, 200, 700, 4000]) * SECOND if n % 60 > 15 else SECOND
        device = chance.randrange(4)
        lasts = chance.choice([5, 400, 3000]) * SECOND
        about, service = f"metric{chance.randrange(3)}", chance.choice(["", "", "web", "db"])
        found.append(
            AlarmSpan(
                device=f"d{device}", site=f"acme/{device % 2}", about=about, start_us=t_us, end_us=t_us + lasts,
                service=service,
            )
        )  # fmt: skip
    return found


def called(db: Database, course: list[AlarmSpan]) -> int:
    """How many pages the hub makes of them, each told when it is raised and when it is cleared."""
    told = [(one.start_us, 0, "raised", n) for n, one in enumerate(course)]
    told += [(one.end_us, 1, "cleared", n) for n, one in enumerate(course)]
    with db.write() as session:
        for one in {one.device: one for one in course}.values():
            session.add(Device(id=one.device, assigned_path=f"{one.site}/line"))
        session.flush()
        for t_us, _, state, n in sorted(told):
            words = alarm(f"a{n}", course[n].about, state, t_us)
            incidents.handle_alarm(session, course[n].device, words, t_us, TRACE, course[n].service)
            session.flush()
        return len({one.page for one in session.exec(select(Incident))})


@pytest.fixture(scope="module")
def pages(server: Any, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many pages the hub makes of the first course."""
    with databases.empty(tmp_path_factory.mktemp("pages"), server) as url:
        db = Database(url)
        found = called(db, course(0))
        db.close()
    return found


def test_pages_counted_over_a_past_are_those_that_the_hub_would_have_made(pages: int) -> None:
    assert grouping.count_pages(course(0)) == pages


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 5))
def test_pages_counted_over_other_pasts_are_those_of_the_hub_too(db: Database, seed: int) -> None:
    assert grouping.count_pages(course(seed)) == called(db, course(seed))


def test_seeded_bug_a_count_that_knows_no_sites_is_another(pages: int) -> None:
    alone = [replace(one, site=one.device) for one in course(0)]
    assert grouping.count_pages(alone) > pages


def test_seeded_bug_a_count_that_knows_no_services_is_another(pages: int) -> None:
    alone = [replace(one, service="") for one in course(0)]
    assert grouping.count_pages(alone) > pages
