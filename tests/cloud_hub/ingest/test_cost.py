"""What a device's message costs the hub: counted in statements, log lines and calls, never in time.

A device pays by its rate limit for what it costs. So hostile input may cost more than honest input for each byte on the
wire, but not for each unit that is charged.
"""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import col, select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, HighWater, Incident, LostRange, TelemetrySample
from cloud_hub.ingest import listener
from cloud_hub.ingest.listener import Listener
from cloud_hub.settings import Mqtt, Twins
from shared.protocol import topics
from shared.protocol.codec import DEFLATED, MAX_ITEMS, encode
from shared.protocol.messages import Applied, Batch, Birth
from shared.transport.mqtt import Inbound

NOW = 1_800_000_000_000_000
SUBJECT = "cpu.load"


class Counted(Listener):
    """Publishes nothing, and tells what it charged."""

    def __init__(self, db: Database, rate: float = 1000.0) -> None:
        super().__init__(Mqtt(device_rate=rate), db, Twins(), lambda _: None)
        self.charged = 0.0
        charge = self._working.charge

        def counting(device: str, cost: float, now: float) -> None:
            self.charged += cost
            charge(device, cost, now)

        self._working.charge = counting  # type: ignore[method-assign]

    def publish(self, messages: Any) -> None:
        list(messages)

    def hear(self, *inbound: Inbound) -> None:
        self._process(list(inbound))


def inbound(rest: str, payload: bytes, device: str = "press-3", *, deflated: bool = False) -> Inbound:
    content_type, payload = (DEFLATED, zlib.compress(payload)) if deflated else ("", payload)
    return Inbound(topic=topics.thing(device, rest), payload=payload, traceparent="", content_type=content_type,
                   acknowledge=lambda: None)  # fmt: skip


def zeros(count: int, first: int = 1) -> bytes:
    return b'{"epoch":"q","first":%d,"items":[%b]}' % (first, b",".join([b"0"] * count))


def sample(seq: int) -> dict[str, Any]:
    return {"metric": SUBJECT, "t_us": NOW + seq, "value": float(seq), "quality": "good"}


def alarm(seq: int, metric: str = SUBJECT, state: str = "raised") -> dict[str, Any]:
    return {"id": f"{metric}-{seq}", "metric": metric, "kind": "high", "state": state, "priority": "low", "t_us": NOW,
            "value": 2.0, "limit": 1.0}  # fmt: skip


def alarms(count: int, first: int = 1, state: str = "raised") -> bytes:
    return encode(Batch(epoch="q", first=first, items=[alarm(seq, state=state) for seq in range(count)]))


@contextmanager
def statements(db: Database) -> Iterator[list[str]]:
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    yield found
    event.remove(db.engine, "before_cursor_execute", note)


def asked(db: Database, *messages: Inbound) -> int:
    hub = Counted(db, rate=0)
    with statements(db) as found:
        hub.hear(*messages)
    return len(found)


# -- bad items -------------------------------------------------------------------------------------


def ranges(db: Database) -> list[tuple[int, int, str]]:
    with db.read() as session:
        rows = session.exec(select(LostRange).order_by(col(LostRange.first)))
        return [(row.first, row.last, row.reason) for row in rows]


def test_twenty_thousand_bad_items_in_110_bytes_are_one_range_and_one_log_line(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    message = inbound("telemetry", zeros(20_000), deflated=True)
    assert len(message.payload) < 120
    with caplog.at_level(logging.WARNING), statements(db) as found:
        Counted(db).hear(message)
    assert ranges(db) == [(1, 20_000, "invalid")]
    assert [record.message for record in caplog.records] == ["wire.item_refused"]
    assert len(found) < 20


def test_neighbouring_bad_items_are_one_range_and_so_are_those_of_the_next_message(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Counted(db)
    items = [0, 0, sample(3), 0, 0, 0]
    with caplog.at_level(logging.WARNING):
        hub.hear(inbound("telemetry", encode(Batch(epoch="q", first=1, items=items))))
        hub.hear(inbound("telemetry", zeros(MAX_ITEMS, first=7)), inbound("telemetry", zeros(4, first=7 + MAX_ITEMS)))
    assert ranges(db) == [(1, 2, "invalid"), (4, 10 + MAX_ITEMS, "invalid")]
    assert [record.fields["items"] for record in caplog.records] == [5, MAX_ITEMS, 4]  # type: ignore[attr-defined]


def test_bad_items_cost_as_many_statements_as_good_ones(db: Database) -> None:
    good = encode(Batch(epoch="g", first=1, items=[sample(seq) for seq in range(MAX_ITEMS)]))
    mixed = encode(Batch(epoch="m", first=1, items=[sample(seq) if seq % 2 else 0 for seq in range(MAX_ITEMS)]))
    honest = asked(db, inbound("telemetry", good))
    assert asked(db, inbound("telemetry", zeros(MAX_ITEMS))) <= honest + 2
    assert asked(db, inbound("telemetry", mixed)) <= honest + 2


# -- alarms ----------------------------------------------------------------------------------------


def test_alarms_of_one_message_cost_a_bounded_number_of_statements_each(db: Database) -> None:
    raised, cleared = alarms(MAX_ITEMS), alarms(MAX_ITEMS, 1 + MAX_ITEMS, "cleared")
    assert asked(db, inbound("alarms", raised)) <= 2 * MAX_ITEMS + 30
    assert asked(db, inbound("alarms", cleared)) <= 2 * MAX_ITEMS + 30
    with db.read() as session:
        (incident,) = session.exec(select(Incident)).all()
        assert incident.state == "resolved"
        assert {row.state for row in session.exec(select(AlarmRow))} == {"cleared"}


def test_no_row_is_read_for_each_of_the_alarms_that_an_incident_already_has(db: Database) -> None:
    """Clearing one alarm looks at no other row of its incident: calls for the thousandth are those for the first."""
    hub = Counted(db, rate=0)
    for part in range(5):
        items = [alarm(seq) for seq in range(part * MAX_ITEMS, (part + 1) * MAX_ITEMS)]
        hub.hear(inbound("alarms", encode(Batch(epoch="q", first=1 + part * MAX_ITEMS, items=items))))

    def clear(seq: int, first: int) -> int:
        items = [alarm(seq, state="cleared")]
        return calls(lambda: hub.hear(inbound("alarms", encode(Batch(epoch="c", first=first, items=items)))))

    clear(0, 1)
    many = clear(1, 2)
    hub.hear(inbound("alarms", encode(Batch(epoch="d", first=1, items=[alarm(9999, "other")]))))
    few = calls(
        lambda: hub.hear(inbound("alarms", encode(Batch(epoch="d", first=2, items=[alarm(9999, "other", "cleared")]))))
    )
    assert many <= 2 * few


# -- what is charged -------------------------------------------------------------------------------


def calls(work: Callable[[], Any]) -> int:
    """Function calls of Python and C that this thread makes: deterministic, where time is not."""
    count = 0

    def note(_frame: Any, kind: str, _argument: Any) -> None:
        nonlocal count
        count += kind in {"call", "c_call"}

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def batches(rest: str, item: Callable[[int], Any], size: int, count: int, device: str = "press-3"
) -> list[Inbound]:  # fmt: skip
    whole = [
        Batch(epoch="q", first=1 + n * size, items=[item(n * size + k) for k in range(size)]) for n in range(count)
    ]
    return [inbound(rest, encode(one), device, deflated=True) for one in whole]


def text(seq: int) -> dict[str, Any]:
    return {"t_us": NOW + seq, "source": "line", "text": "lamp broke"}


NAN = b'{"epoch":"q","first":1,"items":[NaN,%b]}' % b",".join([b"0"] * 50_000)
BRACKETS = b'{"epoch":"q","first":1,"items":[' + b"[" * 100_000
HOSTILE: dict[str, list[Inbound]] = {
    "bad items": [inbound("telemetry", zeros(MAX_ITEMS, 1 + n * MAX_ITEMS), deflated=True) for n in range(5)],
    "too many items": [inbound("telemetry", zeros(20_000), deflated=True)],
    "too many unreadable items": [inbound("telemetry", NAN, deflated=True)],
    "brackets": [inbound("telemetry", BRACKETS, deflated=True)],
    "unreadable items": batches("telemetry", lambda _: {"metric": "Not A Name", "t_us": 1, "value": 1}, MAX_ITEMS, 5),
    "samples that say little": batches("telemetry", lambda n: {"metric": "a", "t_us": n, "value": 1}, MAX_ITEMS, 5),
    "events": batches("events", text, MAX_ITEMS, 5),
    "alarms": batches("alarms", alarm, MAX_ITEMS, 1),
    "alarms of many subjects": batches("alarms", lambda n: alarm(n, f"m{n}.x"), 50, 1),
    "births": [inbound("birth", encode(Birth(device="press-3", session=f"s{n}"))) for n in range(20)],
    "progress": [inbound("applied", encode(Applied(shadow="", version=1, path=f"p{n}", state="refused")))
                 for n in range(50)],
    "gets": [inbound("shadow/get", b"") for _ in range(20)],
    "updates": [inbound("shadow/update", encode({"state": {"reported": {"k1": n}}})) for n in range(20)],
    "a wide patch": [inbound("shadow/update", encode({"state": {"reported": {f"k{n}": 1 for n in range(5000)}}}))],
    "a deep patch": [inbound("shadow/update", b'{"state":{"reported":' + b'{"a":' * 9000 + b"1" + b"}" * 9002)],
    "a deflated update": [inbound("shadow/update", b" " * 500_000, deflated=True)],
}  # fmt: skip


HONEST = batches("telemetry", sample, 1, 200, "press-9")
"""What agents send: some samples a message, many messages a commit."""


def per_unit(db: Database, messages: list[Inbound]) -> float:
    hub = Counted(db, rate=1e9)
    document = {f"k{n:04d}": "x" * 20 for n in range(500)}
    hub.hear(inbound("birth", encode(Birth(device="press-3", session="s"))))
    hub.hear(inbound("shadow/update", encode({"state": {"reported": document}})))
    hub.charged = 0.0
    count = calls(lambda: hub.hear(*messages))
    return count / (len(messages) + hub.charged)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_input_costs_much_more_for_each_unit_than_honest_input(db: Database, name: str) -> None:
    assert per_unit(db, HOSTILE[name]) <= 8 * per_unit(db, HONEST)


# -- who waits -------------------------------------------------------------------------------------


def upto(db: Database, device: str) -> int:
    with db.read() as session:
        return max(session.exec(select(HighWater.upto).where(HighWater.device == device)), default=0)


def test_a_device_that_sent_dear_messages_is_refused_and_the_others_are_not(db: Database) -> None:
    hub = Counted(db, rate=100)
    many = batches("alarms", alarm, MAX_ITEMS, 10, "hostile")
    others = batches("telemetry", sample, 10, 10)
    hub.hear(*[message for pair in zip(many, others, strict=True) for message in pair])
    assert upto(db, "press-3") == 100
    assert upto(db, "hostile") == MAX_ITEMS
    assert hub._working.refused == 9


def test_a_transaction_is_bounded_by_rows(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "COMMIT_ROWS", 500)
    hub, commits = Counted(db, rate=0), list[int]()
    once = hub._commit_once
    monkeypatch.setattr(hub, "_commit_once", lambda said: commits.append(len(said)) or once(said))
    hub.hear(*batches("telemetry", sample, 100, 12))
    assert commits == [5, 5, 2]
    with db.read() as session:
        assert len(session.exec(select(TelemetrySample.seq)).all()) == 1200
