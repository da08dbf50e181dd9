"""The agent and Sparkplug: what is recorded of writes, over restarts too, and that no error of it goes further."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import free_port

from edge_agent.collectors import Value
from edge_agent.config import Settings, parse
from edge_agent.sparkplug.node import MAX_WAITING
from edge_agent.sparkplug.service import SettingsWriter, SparkplugService
from edge_agent.sparkplug.switches import SwitchFile
from edge_agent.sparkplug.writes import ScadaWrites
from edge_agent.store.disk import Disk
from edge_agent.store.statestore import WRITE_TRIAL, StateStore
from edge_agent.twin.local_cli import submit_request
from shared.plant.write_rules import WriteRule
from shared.protocol.messages import Alarm, Applied, Event, Metric, Sample
from shared.thresholds import JudgeState

RULES = [WriteRule(metric="speed", low=0, high=100), WriteRule(metric="level", low=0, high=9, max_step=1)]
TOPIC = "spBv1.0/plant/NCMD/press-1"


class Plc:
    """A Writer that keeps what it was asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.writable = ["speed", "level"]
        self.asked: list[tuple[str, Value, Callable[[str], None]]] = []

    def write(self, metric: str, value: Value, on_done: Callable[[str], None]) -> None:
        self.asked.append((metric, value, on_done))


class Device:
    """The state directory of a device, and its writes; `restart` is a new process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.switches = folder, SwitchFile(folder)
        self.store = StateStore(folder / "kept.sqlite")
        self.restart()

    def restart(self) -> None:
        self.plc, self.shown = Plc(), dict[str, str]()
        writers = dict.fromkeys(self.plc.writable, self.plc)
        self.writes = ScadaWrites(RULES, SwitchFile(self.folder), self.store, writers, self.shown.__setitem__)

    def texts(self) -> list[str]:
        return [event.text for event in self.writes.events]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.store.close()


def test_a_write_is_recorded_from_its_start_to_its_outcome(device: Device) -> None:
    device.switches.enable(["speed"], 3600)
    device.writes.command("speed", "speed", 50, TOPIC)
    ((metric, value, on_done),) = device.plc.asked
    assert (metric, value) == ("speed", 50)
    on_done("")
    device.writes.observe("speed", 50.0, True, 1)
    assert device.texts() == ["write to speed started: 50", "write to speed verified: 50"]
    assert device.shown == {"speed": "verified: 50"}
    assert device.writes.events[1].fields["actor"] == f"scada {TOPIC}"


def test_a_hostile_text_is_recorded_as_the_hub_can_store_it_and_a_terminal_show_it(device: Device) -> None:
    device.writes.command("speed", "speed", "\x1b[2Ja\0b\nc", TOPIC)
    (event,) = device.writes.events
    for text in (event.text, event.fields["value"], event.fields["reason"], device.shown["speed"]):
        assert str(text).isprintable(), text
        assert "\ufffd[2Ja\ufffdb\ufffdc" in str(text) or text is event.fields["reason"]


def test_a_write_under_way_at_a_restart_is_reported_as_unknown(device: Device) -> None:
    device.switches.enable(["speed"], 3600)
    device.writes.command("speed", "speed", 50, TOPIC)
    device.restart()
    (text,) = device.texts()
    assert text.startswith("write to speed failed")
    assert "restarted before its outcome was known" in text
    device.restart()
    assert device.texts() == []


def test_the_rate_limit_holds_over_a_restart(device: Device) -> None:
    device.switches.enable(["speed"], 3600)
    for _ in range(6):
        device.writes.command("speed", "speed", 50, TOPIC)
        device.plc.asked[-1][2]("no connection")
    device.restart()
    device.writes.command("speed", "speed", 50, TOPIC)
    assert device.plc.asked == []
    assert "6 writes in the last minute" in device.shown["speed"]


def test_who_switched_what_is_reported_once_and_over_a_restart(device: Device) -> None:
    device.switches.enable(["speed"], 3600, "shift 2")
    device.writes.tick()
    device.writes.tick()
    (event,) = device.writes.events
    assert event.text == "writes from SCADA to speed are enabled"
    assert event.fields["reason"] == "shift 2"
    assert event.fields["actor"]
    device.restart()
    device.writes.tick()
    assert device.texts() == []
    device.switches.disable()
    device.writes.tick()
    assert device.texts() == ["writes from SCADA to speed are off again"]


def test_a_trial_is_judged_by_what_is_read_now_and_writes_nothing(device: Device) -> None:
    file = device.folder / "kept.sqlite"
    device.writes.tick()
    for wanted in ({"metric": "level", "value": 5}, {"metric": "speed", "value": 500}, {"metric": "speed", "value": 5}):
        submit_request(file, WRITE_TRIAL, wanted)
    submit_request(file, WRITE_TRIAL, [])  # type: ignore[arg-type]  # what nobody should store
    device.writes.tick()
    rows = device.store._db.execute("SELECT answer FROM requests ORDER BY id").fetchall()
    answers = [answer.decode() for (answer,) in rows]
    assert ["level has no value" in answers[0], "above high" in answers[1], '"allowed":true' in answers[2]] == [
        True
    ] * 3
    assert '"allowed":false' in answers[3]
    assert device.plc.asked == []


def test_a_writer_that_raises_has_failed(device: Device) -> None:
    device.switches.enable(["speed"], 3600)
    device.plc.write = lambda *_arguments: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    device.writes.command("speed", "speed", 50, TOPIC)
    assert device.shown["speed"] == "failed: 50 (the collector failed (ZeroDivisionError))"


def test_settings_are_written_as_desired_state() -> None:
    wanted: list[Any] = []
    answers: list[str] = []

    def set_desired(name: str, state: dict[str, Any]) -> list[Applied]:
        wanted.append((name, state))
        if state["settings"]["period_s"] > 5:
            raise ValueError("too deep")
        refused = state["settings"]["period_s"] > 2
        return [Applied(shadow="", path="settings.period_s", version=1, state="refused" if refused else "verified",
                        reason="beyond the site's hard bounds" if refused else "")]  # fmt: skip

    writer = SettingsWriter(set_desired)
    assert writer.writable == ["settings.period_s", "settings.log_level"]
    for value in (1.0, 3.0, 9.0):
        writer.write("settings.period_s", value, answers.append)
    assert wanted[0] == ("", {"settings": {"period_s": 1.0}})
    assert answers == ["", "beyond the site's hard bounds", "too deep"]


# -- the whole -----------------------------------------------------------------------------------------

EDGE = """
[device]
id = "press-1"
profile = "x86-64"
state_dir = "{folder}"
[sparkplug]
group = "plant"
servers = [{{ address = "127.0.0.1:{port}" }}]
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SparkplugService]:
    config, _ = parse(EDGE.format(folder=tmp_path, port=free_port()))
    store, events = StateStore(tmp_path / "kept.sqlite"), list[Event]()
    made = SparkplugService(config, store, Disk(tmp_path, reserve=0), {}, {}, events.extend)
    made.declare([Metric(name="a")])
    made.settings(Settings())
    yield made
    made.close()
    store.close()


def test_an_error_in_one_item_stops_neither_the_agent_nor_the_next_item(
    service: SparkplugService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = service._image.sample

    def sample(item: Sample) -> Any:
        if item.value == 13:
            raise RuntimeError("a bug")
        return real(item)

    monkeypatch.setattr(service._image, "sample", sample)
    items = [Sample(metric="a", t_us=t_us, value=float(value)) for t_us, value in enumerate((1, 13, 13, 2))]
    service.observe(items)
    assert [change.point.value for change in service._node._waiting if change.place.name == "a"] == [1.0, 2.0]
    assert [record.msg for record in caplog.records].count("sparkplug.failed") == 1


def test_an_error_of_the_session_begins_the_connection_anew(
    service: SparkplugService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.tick()
    assert service._node._connection.active
    with monkeypatch.context() as patch:
        patch.setattr(service._node._session, "tick", lambda _now_ms: 1 / 0)
        service.tick()
    assert not service._node._connection.active
    assert service.state["state"] == "offline"
    assert "an error of the edge node" in service.state["reason"]


def test_what_waits_in_memory_is_bounded(service: SparkplugService) -> None:
    for number in range(MAX_WAITING + 10):
        service.observe([Sample(metric="a", t_us=number * 1000, value=float(number))])
    assert len(service._node._waiting) == MAX_WAITING
    assert service._node.counts["lost"] >= 10


def test_alarms_from_before_a_restart_are_active(service: SparkplugService) -> None:
    service.restore_alarms({
        "a": JudgeState(active="high", id="1"), "site:rate:b": JudgeState(active="low", id="2"),
        "flat:c": JudgeState(active="low", id="3"), "d": JudgeState(),
    })  # fmt: skip
    names = {metric.name: metric.value for metric in service._image.tags.definitions("")}
    assert {name: value for name, value in names.items() if name and name.startswith("Alarms/")} == {
        "Alarms/Active": 3, "Alarms/a/high": True, "Alarms/b/rate-low": True, "Alarms/c/flat": True,
    }  # fmt: skip
    cleared = Alarm(
        id="2", metric="b", kind="low", state="cleared", priority="low", t_us=1, value=0.0, limit=0.0, about="rate"
    )
    service.observe([cleared])
    assert {metric.name: metric.value for metric in service._image.tags.definitions("")}["Alarms/b/rate-low"] is False
