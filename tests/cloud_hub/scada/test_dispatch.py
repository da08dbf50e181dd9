"""A write is sent at most once, and ends, whatever ends in between."""

from __future__ import annotations

from typing import Any

import pytest
from simulators.sparkplug_births import NODE, T_MS, birth, data
from sqlmodel import select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import SparkplugWrite
from cloud_hub.scada import dispatch
from cloud_hub.scada.core.records import Record
from cloud_hub.scada.current import CurrentValues
from cloud_hub.scada.dispatch import WriteDispatcher
from cloud_hub.scada.store import Store
from cloud_hub.scada.writes import WriteRequest, WriteService, rules_of
from cloud_hub.settings.scada import Sparkplug
from cloud_hub.twins import service as twins
from shared.sparkplug.effects import Publish

pytestmark = pytest.mark.one_database
PRESS = "line-1-press-3"
SECOND = 1_000_000
RULE = {"device": PRESS, "metric": "setpoint", "low": 0, "high": 100, "verify_s": 5, "max_age_s": 60}


class Crash(BaseException):
    """The process ends."""


class Server:
    """What the dispatcher needs of a server. `crash` ends the process before or after the message is out."""

    connected = True

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.crash = ""
        self.refusal = ""
        self.is_up = True

    def command(self, _key: Any, metric: Any) -> list[Publish] | str:
        return self.refusal or [Publish(topic=str(metric.value), payload=b"")]

    def publish(self, messages: list[Publish]) -> bool:
        if self.crash == "before":
            raise Crash
        if self.is_up:
            self.sent += [float(message.topic) for message in messages]
        if self.crash == "after":
            raise Crash
        return self.is_up


class Rig:
    def __init__(self, db: Database) -> None:
        self.db, self.now, self.server = db, T_MS * 1000, Server()
        self.settings = Sparkplug.model_validate({"writable": [RULE]})
        self.store = Store(db, self.settings, 32768)
        self.restart()
        self.take(birth(NODE, setpoint=1.0))

    def restart(self) -> None:
        rules = rules_of(self.settings.writable)
        self.current = CurrentValues(rules)
        self.service = WriteService(rules, self.current)
        self.dispatcher = WriteDispatcher(self.db, self.service, lambda _: self.server)  # type: ignore[arg-type,return-value]

    def take(self, record: Record) -> None:
        self.store.commit([record], self.now)
        known = self.store.registry.get(record.key)
        assert known is not None
        new = self.current.update(known, record, self.now)
        self.dispatcher.read_back(known.device, new, self.now)

    def ask(self, value: float) -> None:
        with self.db.write(PRESS) as session:
            wanted = WriteRequest(device=PRESS, metric="setpoint", value=value, actor="anna")
            self.service.request(session, wanted, self.now)

    def run(self, seconds: float = 0.0) -> None:
        self.now += int(seconds * SECOND)
        self.dispatcher.run_once(self.now)

    def rows(self) -> list[tuple[str, str]]:
        with self.db.read() as session:
            rows = session.exec(select(SparkplugWrite).order_by(SparkplugWrite.id)).all()
        return [(row.state, row.reason) for row in rows]


@pytest.fixture
def rig(db: Database) -> Rig:
    return Rig(db)


def crash_and_restart(rig: Rig, where: str) -> None:
    rig.ask(42)
    rig.server.crash = where
    with pytest.raises(Crash):
        rig.run()
    rig.server.crash = ""
    rig.restart()
    rig.run(1)
    rig.run(1)


@pytest.mark.parametrize(("where", "sent"), [("before", []), ("after", [42.0])])
def test_a_crash_while_it_is_sent_sends_nothing_twice(rig: Rig, where: str, sent: list[float]) -> None:
    crash_and_restart(rig, where)
    assert rig.server.sent == sent
    assert rig.rows() == [("sent", "")]
    rig.run(5)
    assert rig.rows()[0][0] == "failed"


def test_without_the_commit_before_it_would_be_sent_twice(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: the message goes out within the transaction, before `sent` is committed."""

    def early(self: WriteDispatcher, session: Any, row: SparkplugWrite, now_us: int) -> Any:
        found = real(self, session, row, now_us)
        rig.server.publish(found[0])
        return found

    real = WriteDispatcher._prepare
    monkeypatch.setattr(dispatch.WriteDispatcher, "_prepare", early)
    crash_and_restart(rig, "after")
    assert rig.server.sent.count(42.0) > 1


def test_a_write_of_an_earlier_run_is_verified_by_what_comes(rig: Rig) -> None:
    rig.ask(42)
    rig.run()
    rig.restart()
    rig.run(1)
    rig.take(data(setpoint=42.0, t_ms=T_MS + 1500))
    assert rig.rows() == [("verified", "")]


def test_a_connection_that_is_lost_fails_the_write(rig: Rig) -> None:
    rig.server.is_up = False
    rig.ask(42)
    rig.run()
    assert rig.rows() == [("failed", "the connection to the server was lost")]


def test_a_session_that_refuses_fails_the_write(rig: Rig) -> None:
    rig.server.refusal = "the node is not online"
    rig.ask(42)
    rig.run()
    assert rig.rows() == [("failed", "the node is not online")]


def test_a_second_value_ends_the_wait_for_the_first(rig: Rig) -> None:
    rig.ask(42)
    rig.run()
    rig.ask(43)
    rig.run(1)
    rig.take(data(setpoint=43.0, t_ms=T_MS + 1500))
    assert rig.rows() == [("failed", "another value was written before it was verified"), ("verified", "")]
    assert rig.server.sent == [42.0, 43.0]


def test_a_write_whose_interlock_no_longer_holds_is_refused_before_it_is_sent(rig: Rig) -> None:
    rig.ask(42)
    rig.service.rules = rules_of(Sparkplug.model_validate({"writable": [RULE | {"high": 40}]}).writable)
    rig.run()
    assert rig.server.sent == []
    assert rig.rows()[0][0] == "refused"


def test_a_write_that_fails_inside_ends_no_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ask(41)
    rig.ask(42)
    real = rig.server.command
    monkeypatch.setattr(rig.server, "command", lambda key, one: 1 / 0 if one.value == 41 else real(key, one))
    rig.run()
    assert rig.server.sent == [42.0]
    rig.run(11)
    assert [state for state, _ in rig.rows()] == ["expired", "failed"]


@pytest.mark.parametrize(("set_s", "sent"), [(0, [42.0]), (-55, [42.0]), (-70, []), (70, []), (7200, [])])
def test_a_desired_leaf_is_only_written_if_it_was_set_just_now(rig: Rig, set_s: int, sent: list[float]) -> None:
    wanted, at_us = {"metrics": {"setpoint": 42}}, rig.now + set_s * SECOND
    with rig.db.write(PRESS) as session:
        twins.update_desired(session, PRESS, "sparkplug", wanted, at_us, actor="anna", max_bytes=32768)
    rig.dispatcher.devices_changed([PRESS])
    rig.run()
    rig.run()
    assert rig.server.sent == sent
    assert [state for state, _ in rig.rows()] == ["sent" if sent else "refused"]
