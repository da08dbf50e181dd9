"""One bad item, message or head: the rest is stored and acknowledged, and a stream that cannot go on is shown."""

from __future__ import annotations

import logging
import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulators.births import born
from simulators.brokers import mosquitto, until
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from cloud_hub.api import devices
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, EventRow, LostRange, StalledStream, TelemetrySample
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.devices import registry as device_registry
from cloud_hub.incidents import service as incidents
from cloud_hub.ingest import listener
from cloud_hub.ingest.listener import Listener
from cloud_hub.ingest.writer import GAP_US
from cloud_hub.settings import Mqtt, Twins
from cloud_hub.telemetry import samples as telemetry
from shared import topics
from shared.codec import decode, encode
from shared.messages import Ack, Applied, Batch, Birth, CommandResult
from shared.mqtt import Connection, Inbound, Options

NOW = 1_800_000_000_000_000
DEVICE = "press-3"
RAISED = (
    b'{"id":"a%d","metric":"cpu.load","kind":"high","state":"raised",'
    b'"priority":"critical","t_us":1,"value":%b,"limit":1}'
)


class Hub(Listener):
    """Keeps what it would publish, and lives on a virtual clock."""

    def __init__(self, db: Database) -> None:
        super().__init__(Mqtt(device_rate=0), db, Twins(), lambda _: None)
        self.acks: dict[tuple[str, str], int] = {}

    def publish(self, messages: Any) -> None:
        for message in messages:
            if message.topic.endswith("/acks"):
                ack = decode(Ack, message.payload)
                self.acks[message.topic.split("/")[3], ack.stream] = ack.upto

    def hear(self, *messages: tuple[str, bytes], device: str = DEVICE) -> None:
        self._process([
            Inbound(topic=topics.thing(device, rest), payload=payload, traceparent="", acknowledge=lambda: None)
            for rest, payload in messages
        ])  # fmt: skip


def samples(first: int, count: int = 1, epoch: str = "e") -> tuple[str, bytes]:
    items = [{"metric": "cpu.load", "t_us": NOW + first + n, "value": 1.0} for n in range(count)]
    return "telemetry", encode(Batch(epoch=epoch, first=first, items=items))


def shown(db: Database, stream: str = "telemetry") -> list[tuple[str, int, str]]:
    """(epoch, up to, why it stands still) of each row of this stream in /streams."""
    with db.write() as session:
        if not device_registry.exists(session, DEVICE):
            born(session, Birth(device=DEVICE, session="s"), NOW)
    hub, caller = SimpleNamespace(db=db), SimpleNamespace(scope=None)
    rows = devices.streams(DEVICE, hub=hub, caller=caller)  # type: ignore[arg-type]
    return [
        (row.epoch, row.upto, row.stalled.reason if row.stalled else "")
        for row in rows if row.stream == stream and (row.upto or row.stalled)
    ]  # fmt: skip


def events(db: Database) -> list[str]:
    with db.read() as session:
        return [row.text for row in telemetry.events(session, DEVICE)][::-1]


HEADLESS = ("telemetry", b'{"epoch":"e","first":NaN,"items":[1]}')


# -- unreadable items on the real wire -------------------------------------------------------------


@pytest.mark.parametrize("value", [b"NaN", b"1e999", b'"\\ud800"', b'1,"value":1', b"1,", b'"\xfcber"'])
def test_a_critical_alarm_behind_an_unreadable_item_arrives(db: Database, tmp_path: Path, value: bytes) -> None:
    broker = mosquitto(tmp_path)
    broker.start()
    hub = Listener(Mqtt(address=f"127.0.0.1:{broker.port}"), db, Twins(), lambda _: None)
    heard: list[Inbound] = []
    up = threading.Event()
    device = Connection(
        Options(client_id=DEVICE, filters=[topics.thing(DEVICE, "acks")]), lambda: ("127.0.0.1", broker.port),
        on_message=heard.append, on_up=up.set, on_down=lambda _: None,
    )  # fmt: skip
    try:
        hub.start()
        until("the hub listens", lambda: hub.connected, 20)
        device.start()
        assert up.wait(20)
        items = b",".join(RAISED % (n, value if n == 1 else b"9") for n in range(3))
        device.publish(topics.thing(DEVICE, "alarms"), b'{"epoch":"e","first":1,"items":[%b]}' % items)
        device.publish(topics.thing(DEVICE, "alarms"), b'{"epoch":"e","first":4,"items":[%b]}' % (RAISED % (4, b"9")))
        until("all are acknowledged", lambda: [decode(Ack, one.payload).upto for one in heard][-1:] == [4], 20)
    finally:
        device.stop()
        hub.stop()
        broker.stop()
    with db.read() as session:
        assert sorted(row.id for row in session.exec(select(AlarmRow))) == ["a0", "a2", "a4"]
        assert [(row.first, row.last, row.reason) for row in session.exec(select(LostRange))] == [(2, 2, "invalid")]


# -- stalls ----------------------------------------------------------------------------------------


def test_a_stream_with_an_unreadable_head_is_shown_and_told_once_until_it_moves(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(db)
    with caplog.at_level(logging.INFO):
        hub.hear(samples(1, 3))
        for _ in range(3):
            hub.hear(HEADLESS, HEADLESS)
        ((epoch, upto, reason),) = shown(db)
        assert (epoch, upto) == ("e", 3)
        assert "not a valid Batch" in reason
        assert events(db) == [f"stream telemetry is stalled: {reason}"]
        Hub(db).hear(HEADLESS)  # the hub begins anew: it is the same stall
        assert len(events(db)) == 1
        hub.hear(samples(4))
        assert shown(db) == [("e", 4, "")]
        hub.hear(HEADLESS)
    assert len(events(db)) == 2
    told = [record.message for record in caplog.records if record.message.startswith("stream.")]
    assert told == ["stream.stalled", "stream.resumed", "stream.stalled"]


def test_a_stream_that_never_began_is_shown_too_and_a_removed_device_is_forgotten(db: Database) -> None:
    Hub(db).hear(("alarms", b"\xfe\xed"))
    ((epoch, upto, reason),) = shown(db, "alarm")
    assert (epoch, upto) == ("", 0)
    assert "not a valid Batch" in reason
    assert shown(db) == []
    with db.write() as session:
        decommissioning.remove(session, DEVICE, NOW, actor="anna")
    with db.read() as session:
        assert session.exec(select(StalledStream)).all() == []


def test_a_gap_that_is_not_filled_is_a_stall_and_one_that_is_filled_is_none(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, now = Hub(db), [NOW]
    monkeypatch.setattr(listener, "now_us", lambda: now[0])
    hub.hear(samples(1), samples(3))
    now[0] += GAP_US - 1
    hub.hear(samples(3))
    hub.hear(samples(2), samples(3), samples(5))
    now[0] += GAP_US - 1
    hub.hear(samples(5))
    assert shown(db) == [("e", 3, "")]
    now[0] += 1
    hub.hear(samples(5))
    ((_, _, reason),) = shown(db)
    assert reason == "item 4 of epoch 'e' is missing, but those from 5 on arrived"
    hub.hear(samples(4, 3))
    assert shown(db) == [("e", 6, "")]


# -- one message, one try --------------------------------------------------------------------------


def poisoned(monkeypatch: pytest.MonkeyPatch, metric: str, error: Exception) -> None:
    """Storing an alarm of this metric fails."""
    good = incidents.handle_alarms

    def changed(session: Any, device: str, alarms: Any, *rest: Any) -> int:
        if any(alarm.metric == metric for alarm in alarms):
            raise error
        return good(session, device, alarms, *rest)

    monkeypatch.setattr(incidents, "handle_alarms", changed)


def alarm_batch(first: int, *metrics: str) -> tuple[str, bytes]:
    items = [{"id": f"a{first + n}", "metric": metric, "kind": "high", "state": "raised", "priority": "high", "t_us": 1,
              "value": 2, "limit": 1} for n, metric in enumerate(metrics)]  # fmt: skip
    return "alarms", encode(Batch(epoch="e", first=first, items=items))


BLAMED = IntegrityError("INSERT", {}, Exception("the content"))


@pytest.mark.parametrize("error", [BLAMED, OverflowError("too large")])
def test_an_item_that_the_database_refuses_is_invalid_and_costs_no_other(
    db: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    poisoned(monkeypatch, "poison", error)
    hub = Hub(db)
    hub.hear(samples(1), alarm_batch(1, *(["cpu.load"] * 6), "poison", "cpu.load"), samples(2))
    hub.hear(alarm_batch(9, "cpu.load"))
    assert hub.acks == {(DEVICE, "telemetry"): 2, (DEVICE, "alarm"): 9}
    with db.read() as session:
        ids = list(session.exec(select(AlarmRow.id).order_by(col(AlarmRow.id))))
        assert ids == ["a1", "a2", "a3", "a4", "a5", "a6", "a8", "a9"]
        assert [(row.first, row.last, row.reason) for row in session.exec(select(LostRange))] == [(7, 7, "invalid")]


def test_what_the_hub_itself_fails_at_is_not_acknowledged_and_is_a_stall(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        poisoned(broken, "poison", AttributeError("a fault of ours"))
        hub = Hub(db)
        hub.hear(samples(1), alarm_batch(1, "poison"), samples(2))
        assert hub.acks == {(DEVICE, "telemetry"): 2}
        ((_, _, reason),) = shown(db, "alarm")
        assert reason == "the hub fails: AttributeError: a fault of ours"
    hub.hear(alarm_batch(1, "poison"))
    assert hub.acks[DEVICE, "alarm"] == 1
    assert shown(db, "alarm") == [("e", 1, "")]


def test_one_message_that_fails_costs_the_others_few_commits(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, "poison", RuntimeError("a fault of ours"))
    hub, tries, count = Hub(db), list[int](), 256
    once = hub._commit_once
    monkeypatch.setattr(hub, "_commit_once", lambda said: tries.append(len(said)) or once(said))
    messages = [samples(n) for n in range(1, count)]
    hub.hear(*messages[:100], alarm_batch(1, "poison"), *messages[100:])
    assert hub.acks == {(DEVICE, "telemetry"): count - 1}
    assert len(tries) <= 2 * math.log2(count) + 2
    with db.read() as session:
        assert len(session.exec(select(TelemetrySample.seq)).all()) == count - 1


# -- what no database holds ------------------------------------------------------------------------

LARGE = 10**30
WORDS: list[tuple[str, bytes]] = [
    ("applied", encode({"shadow": "", "version": LARGE, "path": "a", "state": "applied"})),
    ("applied", encode({"shadow": "", "version": -1, "path": "a", "state": "applied"})),
    ("applied", encode({"shadow": "x" * 9999, "version": 1, "path": "a", "state": "applied"})),
    ("applied", encode({"shadow": "", "version": 1, "path": "x" * 9999, "state": "applied"})),
    ("birth", encode({"device": DEVICE, "session": "s", "protocol": LARGE})),
    ("birth", encode({"device": DEVICE, "session": "s", "t_us": LARGE})),
    ("birth", encode({"device": DEVICE, "session": "s", "epoch": "e" * 9999})),
    ("birth", encode({"device": DEVICE, "session": "s", "epoch": "e", "acked": {"telemetry": LARGE}})),
    ("birth", encode({"device": DEVICE, "session": "s", "epoch": "e", "acked": {"telemetry": -5}})),
    ("commands/c1/response", encode({"id": "c1", "state": "succeeded", "t_us": LARGE})),
]
GOOD: list[tuple[str, bytes]] = [
    ("birth", encode(Birth(device=DEVICE, session="s", epoch="e", acked={"telemetry": 0}))),
    ("applied", encode(Applied(shadow="", version=(1 << 62) - 1, path="x" * 1024, state="applied"))),
    ("commands/c1/response", encode(CommandResult(id="c1", state="succeeded", t_us=1))),
]


@pytest.mark.parametrize("words", [WORDS, GOOD], ids=["refused", "taken"])
def test_a_number_or_key_that_no_database_holds_is_refused_where_it_is_read(
    db: Database, caplog: pytest.LogCaptureFixture, words: list[tuple[str, bytes]]
) -> None:
    with caplog.at_level(logging.WARNING):
        Hub(db).hear(*words)
    expected = ["wire.refused"] * len(WORDS) if words is WORDS else []
    assert [record.message for record in caplog.records if record.name.startswith("cloud_hub")] == expected


@pytest.mark.parametrize(("rest", "change"), [
    ("alarms", {"id": "x" * 9999}), ("escalations", {"id": "x" * 9999}), ("escalations", {"model": "x" * 9999}),
])  # fmt: skip
def test_an_item_whose_key_is_too_long_is_invalid(db: Database, rest: str, change: dict[str, str]) -> None:
    items: dict[str, dict[str, Any]] = {
        "escalations": {"id": "x", "t_us": 1, "model": "m", "digest": "d", "number": 1, "reason": "unsure",
                        "label": "", "margin": 0, "shape": [1, 1], "frame": "AA=="},
        "alarms": {"id": "x", "metric": "a", "kind": "high", "state": "raised", "priority": "low", "t_us": 1,
                   "value": 2, "limit": 1},
    }  # fmt: skip
    item = items[rest]
    hub = Hub(db)
    hub.hear((rest, encode(Batch(epoch="e", first=1, items=[item | change, item]))))
    assert list(hub.acks.values()) == [2]
    with db.read() as session:
        assert [(row.first, row.last) for row in session.exec(select(LostRange))] == [(1, 1)]
        assert session.exec(select(EventRow)).all() == []
