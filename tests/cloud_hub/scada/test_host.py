"""The host's thread: whatever fails, the rest is stored; nodes on several servers; settings."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from simulators.sparkplug_births import DRIVE, NODE, T_MS, birth, data, death, metric
from sqlmodel import select

from cloud_hub.cli import checks
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, SparkplugNode
from cloud_hub.runtime.worker import NOTHING
from cloud_hub.scada import twin
from cloud_hub.scada.core import definitions
from cloud_hub.scada.core.records import Birth, Data, Note, Record
from cloud_hub.scada.host import SparkplugHost, open_host
from cloud_hub.scada.server import HostServer, Received
from cloud_hub.scada.store import Store
from cloud_hub.settings import Settings
from cloud_hub.settings.scada import Sparkplug
from cloud_hub.telemetry import samples
from cloud_hub.twins import service as twins
from shared.errors import ConfigError, NotReady
from shared.plant.write_rules import Allowed
from shared.process.checks import Findings

pytestmark = pytest.mark.one_database
PRESS = "line-1-press-3"
INTERLOCKED = {"device": PRESS, "metric": "a", "low": 0, "high": 1, "only_while": "speed == 0"}
SERVERS = [{"address": "127.0.0.1:1"}, {"address": "127.0.0.1:2"}]


class Rig:
    """A host that is not connected; what its servers would receive is given to it as records."""

    def __init__(self, db: Database, folder: Path, **spb: Any) -> None:
        self.db = db
        self.spb = {"host_id": "hub", "servers": SERVERS} | spb
        self.settings = Settings(state_dir=str(folder), sparkplug=self.spb)  # type: ignore[arg-type]
        self.host = SparkplugHost(db, self.settings)

    @property
    def servers(self) -> Sequence[HostServer]:
        return self.host._servers

    def take(self, *records: Record, server: int = 0) -> None:
        self.host._processor.process([Received(server=self.servers[server], records=(record,)) for record in records])

    def values(self, metric: str) -> list[Any]:
        with self.db.read() as session:
            return [one.value for one in samples.series(session, PRESS, metric)]

    def state(self, device: str = PRESS) -> str:
        with self.db.read() as session:
            return session.get_one(Device, device).state


@pytest.fixture
def rig(db: Database, tmp_path: Path) -> Rig:
    return Rig(db, tmp_path)


def failing(real: Callable[..., Any], error: Exception, when: Callable[..., bool]) -> Callable[..., Any]:
    def work(*arguments: Any, **more: Any) -> Any:
        if when(*arguments):
            raise error
        return real(*arguments, **more)

    return work


def test_one_record_that_cannot_be_stored_is_refused_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = birth(("g", "bad", ""), poison=1.0)
    monkeypatch.setattr(
        definitions, "read", failing(definitions.read, KeyError("x"), lambda found: found[0].name == "poison")
    )
    rig.take(birth(a=1.0), bad, birth(DRIVE, b=1.0), data(a=2.0))
    assert rig.values("a") == [1.0, 2.0]
    assert rig.state(f"{PRESS}-drive") == "online"
    assert rig.host.status().counts["refused"] == 1


def test_a_database_that_is_away_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    monkeypatch.setattr(rig.host._stopping, "wait", lambda seconds: bool(tries.append(1)))
    real = rig.host._processor.store.commit
    error = NotReady("the database is away")
    monkeypatch.setattr(Store, "commit", failing(lambda _, *a: real(*a), error, lambda *_: len(tries) < 3))
    rig.take(birth(a=1.0))
    assert (len(tries), rig.values("a")) == (3, [1.0])


def test_a_message_on_which_the_session_fails_is_lost_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        HostServer, "read", failing(HostServer.read, RuntimeError("x"), lambda _, message: message.topic == "bad")
    )
    one = rig.servers[0]
    rig.host._processor.process([Received(server=one, topic="bad"), Received(server=one, records=(birth(a=1.0),))])
    assert rig.values("a") == [1.0]
    assert rig.host.status().counts["failures"] == 1


def test_what_follows_a_commit_may_fail_without_an_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.host._processor, "_observe", failing(lambda _: None, RuntimeError("x"), lambda _: True))
    rig.take(birth(a=1.0))
    rig.take(data(a=2.0))
    assert rig.values("a") == [1.0, 2.0]


def test_a_node_whose_birth_is_not_here_is_asked_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    note = Note(key=NODE, reason="", refused=False)
    monkeypatch.setattr(HostServer, "rebirth", lambda _, key, reason: [note] if asked.append(key) is None else [])
    rig.host._processor.server_of[NODE[:2]] = rig.servers[1]
    for _ in range(3):
        rig.take(data(a=2.0))
    assert asked == [NODE]
    assert rig.host.status().counts["rebirths_requested"] == 1


def test_a_death_on_the_server_that_a_node_has_left_is_not_its_own(rig: Rig) -> None:
    rig.take(birth(a=1.0))
    rig.take(birth(a=1.0), server=1)
    rig.take(death())
    assert rig.state() == "online"
    rig.take(death(), server=1)
    assert rig.state() == "offline"


def test_nodes_of_a_server_that_the_settings_no_longer_have_are_offline(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rig.take(birth(a=1.0), birth(DRIVE, b=1.0))
    with rig.db.write() as session:
        for row in session.exec(select(SparkplugNode)):
            row.server = "10.0.0.9:1883"
            session.add(row)
    again = Rig(rig.db, tmp_path)
    monkeypatch.setattr(again.host._queue, "receive", lambda *_: [])
    again.host._run()
    assert (again.state(), again.state(f"{PRESS}-drive")) == ("offline", "offline")


def test_the_worker_fails_when_the_thread_has_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.host.run_once() is NOTHING
    rig.host._queue.close()
    rig.host._thread.start()
    rig.host._thread.join()
    with pytest.raises(RuntimeError, match="has ended"):
        rig.host.run_once()


def test_texts_reach_the_twin_after_a_while(rig: Rig) -> None:
    rig.take(birth(mode="auto"))
    rig.take(data(mode="manual", t_ms=T_MS + 1))
    rig.take(data(mode="off", t_ms=T_MS + 2))
    rig.host._processor._write_twins()
    with rig.db.read() as session:
        assert twins.reported(session, PRESS, "sparkplug")["metrics"] == {"mode": "off"}
        assert twins.load(session, PRESS, "sparkplug").version == 2


def test_a_twin_that_cannot_be_written_keeps_the_texts_of_no_other_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.take(birth(mode="on"), birth(DRIVE, mode="on"))
    monkeypatch.setattr(
        twin, "report", failing(twin.report, ValueError("x"), lambda _s, _d, device, *_: device == f"{PRESS}-drive")
    )
    rig.host._processor._texts.waiting = {f"{PRESS}-drive": {"mode": "x"}, PRESS: {"mode": "off"}}
    rig.host._processor._write_twins()
    with rig.db.read() as session:
        assert twins.reported(session, PRESS, "sparkplug")["metrics"] == {"mode": "off"}


@pytest.mark.parametrize("after", [data(b=1.0), birth(DRIVE, b=1.0)], ids=["data", "birth of a device"])
def test_after_lost_messages_no_interlock_holds_by_a_value_from_before_them(
    db: Database, tmp_path: Path, after: Data | Birth
) -> None:
    rig = Rig(db, tmp_path, writable=[INTERLOCKED])
    rig.take(birth(a=1.0, b=0.0, speed=0.0))
    with rig.db.read() as session:
        assert isinstance(rig.host.writes.judge(session, PRESS, "a", 1, now_us()), Allowed)
    rig.take(replace(after, gap=True))
    with rig.db.read() as session:
        assert "speed has no value" in str(rig.host.writes.judge(session, PRESS, "a", 1, now_us()))


def test_a_value_that_waited_in_the_queue_is_as_old_as_its_arrival(db: Database, tmp_path: Path) -> None:
    rig = Rig(db, tmp_path, writable=[INTERLOCKED])
    late = Received(server=rig.servers[0], records=(birth(a=1.0, speed=0.0),), at_us=now_us() - 11_000_000)
    rig.host._processor.process([late])
    with rig.db.read() as session:
        assert "s old" in str(rig.host.writes.judge(session, PRESS, "a", 1, now_us()))
    rig.take(data(speed=0.0))
    with rig.db.read() as session:
        assert isinstance(rig.host.writes.judge(session, PRESS, "a", 1, now_us()), Allowed)


def test_a_node_that_says_it_is_an_agent_is_no_word_of_that_agent(rig: Rig) -> None:
    with rig.db.write() as session:
        session.add(Device(id="pump-1", profile="x86-64"))
    rig.take(birth(NODE, metric(definitions.OWN_DEVICE, "pump-1")))
    rig.take(data(a=1.0))
    assert rig.host.heard_us("pump-1") == 0


def test_nodes_that_come_and_go_under_ever_new_names_leave_nothing_behind(rig: Rig) -> None:
    for number in range(20):
        rig.take(birth(("g", f"n{number}", "")), death(("g", f"n{number}", "")))
    assert rig.host._processor.server_of == {}
    rig.take(birth(a=1.0))
    assert rig.host._processor.server(NODE) is rig.servers[0]


def test_texts_wait_for_a_database_that_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.take(birth(mode="auto"))
    rig.take(data(mode="off"))
    with monkeypatch.context() as away:
        away.setattr(twin, "report", failing(twin.report, NotReady("the database is away"), lambda *_: True))
        with pytest.raises(NotReady):
            rig.host._processor._write_twins()
    rig.host._processor._write_twins()
    with rig.db.read() as session:
        assert twins.reported(session, PRESS, "sparkplug")["metrics"] == {"mode": "off"}


@pytest.mark.sql
def test_a_writable_text_with_nul_reaches_the_twin(db: Database, tmp_path: Path) -> None:
    rig = Rig(db, tmp_path, writable=[{"device": PRESS, "metric": "mode", "allowed": ["on", "off"]}])
    rig.take(birth(mode="a\0b", other="x"))
    rig.take(data(mode="c\0" * 500))
    rig.host._processor._write_twins()
    with rig.db.read() as session:
        assert str(twins.reported(session, PRESS, "sparkplug")["metrics"]["mode"]).startswith("c\ufffdc")


# -- settings -----------------------------------------------------------------------------------------


def test_a_host_without_an_id_is_off(db: Database, tmp_path: Path) -> None:
    assert open_host(db, Settings(state_dir=str(tmp_path)), lambda _: None, lambda _: None) is None


def test_a_bad_address_is_a_configuration_error(db: Database, tmp_path: Path) -> None:
    spb = {"host_id": "hub", "servers": [{"address": "nowhere"}]}
    with pytest.raises(ConfigError, match=r"sparkplug\.servers\.address"):
        open_host(db, Settings(state_dir=str(tmp_path), sparkplug=spb), lambda _: None, lambda _: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"servers": []}, "name at least one"),
        ({"host_id": "a/b"}, "host id"),
        ({"groups": [{"group": "a"}, {"group": "a"}]}, "named twice"),
        ({"groups": [{"group": "a+"}]}, "no \\+"),
        ({"writable": [{"device": "d", "metric": "m"}]}, "low and high"),
        ({"writable": [{"device": "d", "metric": "m", "low": 2, "high": 1}]}, "low first"),
        ({"writable": [{"device": "d", "metric": "m", "low": 1, "high": 2}] * 2}, "two rules"),
        ({"writable": [{"device": "d", "metric": "m", "low": 1, "high": 2, "only_while": "a +"}]}, "writable"),
        ({"servers": [{"address": "a:1", "tls": {"ca": "x", "key": "y"}}]}, "together"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Sparkplug.model_validate({"host_id": "hub", "servers": SERVERS} | wrong)


def checked(folder: Path, **server: Any) -> Findings:
    findings = Findings()
    spb = {"host_id": "hub", "servers": [server]}
    checks._sparkplug(Settings(state_dir=str(folder), sparkplug=spb), findings)  # type: ignore[arg-type]
    return findings


def test_check_warns_of_servers_without_a_host_id(tmp_path: Path) -> None:
    findings = Findings()
    spb = {"servers": [{"address": "127.0.0.1:1"}]}
    checks._sparkplug(Settings(state_dir=str(tmp_path), sparkplug=spb), findings)  # type: ignore[arg-type]
    assert findings.problems == []
    assert "the Sparkplug host is off" in findings.warnings[0]


def test_check_names_what_is_wrong_with_a_server(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x", "utf-8")
    secret.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = f"127.0.0.1:{listener.getsockname()[1]}"
        assert checked(tmp_path, address=here) == Findings()
        (warning,) = checked(tmp_path, address=here, password_file=str(secret)).warnings
        assert "chmod 600" in warning
        (problem,) = checked(tmp_path, address=here, tls={"ca": "/nowhere/ca.pem"}).problems
        assert "/nowhere/ca.pem is not there" in problem
        (problem,) = checked(tmp_path, address="x").problems
        assert "the port is missing" in problem
    (warning,) = checked(tmp_path, address=here).warnings
    assert "tries again" in warning
