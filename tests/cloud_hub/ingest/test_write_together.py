"""Births and twin requests of many devices in one transaction leave what each alone leaves."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulators.ingest_batches import NOW
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    Device,
    HighWater,
    TwinChange,
    TwinRow,
)
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.ingest.core.router import DeviceMessage, IngestMessage, ShadowRequest
from cloud_hub.ingest.writer import Writer, WriteResults
from cloud_hub.twins.rows import TwinRows
from shared.protocol.codec import decode, encode
from shared.protocol.messages import Birth
from shared.protocol.messages import Session as SessionWord

BIRTHS = st.lists(
    st.builds(
        Birth, device=st.sampled_from(["a", "b", "c"]), session=st.sampled_from(["s1", "s2"]),
        epoch=st.sampled_from(["e1", "e2"]), state=st.sampled_from(["online", "online", "offline"]),
        acked=st.dictionaries(st.sampled_from(["telemetry", "alarm"]), st.integers(0, 5), max_size=2),
    ),
    max_size=8,
)  # fmt: skip


def _taken(db: Database, births: list[Birth], together: bool, name: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Answers, devices and marks after `births`; devices are told apart by `name`, so that one database serves both."""
    mine = [replace(one, device=f"{name}-{one.device}") for one in births]
    writer, results = Writer(db.hub_epoch, 32768), WriteResults()
    with db.write() as session:
        for some in [mine] if together else [[one] for one in mine]:
            said = [(DeviceMessage(device=birth.device, message=birth), "") for birth in some]
            writer.write(session, said, NOW, results)
    words = [decode(SessionWord, message.payload) for message in results.messages]
    with db.read() as session:
        rows = session.exec(select(Device).where(col(Device.id).startswith(f"{name}-")).order_by(Device.id))
        devices = [(row.id.removeprefix(name), row.state, row.session, row.epoch, row.conflict) for row in rows]
        query = select(HighWater).where(col(HighWater.device).startswith(f"{name}-"))
        marks = sorted((m.device.removeprefix(name), m.epoch, m.stream, m.upto) for m in session.exec(query))
    return words, [(*one[:4], bool(one[4])) for one in devices], marks


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(births=BIRTHS, seeded=st.uuids())
def test_births_together_are_births_one_by_one(db: Database, births: list[Birth], seeded: Any) -> None:
    one, other = f"o{seeded.hex[:12]}", f"t{seeded.hex[:12]}"
    words, devices, marks = _taken(db, births, together=False, name=one)
    assert _taken(db, births, together=True, name=other)[1:] == (devices, marks)
    together = _taken(db, births, together=True, name=f"u{seeded.hex[:12]}")[0]
    strip = [(word.session, word.epoch, word.upto, bool(word.refused)) for word in words]
    assert [(word.session, word.epoch, word.upto, bool(word.refused)) for word in together] == strip


def test_the_property_of_births_catches_a_seeded_bug(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    load = StreamOffsets.load

    def forgetful(self: StreamOffsets, keys: Any) -> None:
        """Reads the marks once for each, and takes the one that was raised meanwhile back to what the table says."""
        self._loaded.clear()
        load(self, keys)

    monkeypatch.setattr(StreamOffsets, "load", forgetful)
    births = [Birth(device="a", session="s", epoch="e", acked={"alarm": upto}) for upto in (5, 0)]
    words, _, marks = _taken(db, births, together=False, name="o")
    together, _, other = _taken(db, births, together=True, name="t")
    assert ([word.upto for word in together], other) != ([word.upto for word in words], marks)


# -- twin requests together ------------------------------------------------------------------------


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from(["", "gates"]), st.sampled_from(["update", "update", "get", "delete"]),
        st.dictionaries(st.sampled_from("xy"), st.one_of(st.none(), st.integers(0, 2)), max_size=2),
        st.sampled_from(["desired", "reported"]), st.one_of(st.none(), st.integers(1, 3)),
    ),
    max_size=8,
)  # fmt: skip


_FRESH = itertools.count()


def _asked(db: Database, requests: list[Any], together: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """Replies, documents and history after `requests`, of devices that one database has not seen before."""
    prefix = f"fresh{next(_FRESH):06}"
    said: list[IngestMessage] = []
    for device, name, verb, patch, section, version in requests:
        body = {"state": {section: patch}} | ({"version": version} if version else {})
        payload = encode(body) if verb == "update" else b"{}"
        said.append(ShadowRequest(device=f"{prefix}-{device}", name=name, verb=verb, payload=payload))
    writer, results = Writer(db.hub_epoch, 32768), WriteResults()
    with db.write() as session:
        session.add_all([Device(id=f"{prefix}-{device}") for device in "ab"])
        session.flush()
        for some in [said] if together else [[one] for one in said]:
            writer.write(session, [(one, "") for one in some], NOW, results)
    # As values: PostgreSQL gives the keys of a document back in an order of its own.
    replies = [
        (message.topic.replace(prefix, ""), json.loads(message.payload.replace(prefix.encode(), b"")))
        for message in results.messages
    ]
    with db.read() as session:
        mine = session.exec(select(TwinRow).where(col(TwinRow.device).startswith(f"{prefix}-")))
        rows = [(row.device[len(prefix) :], row.name, row.version, row.deleted, row.state) for row in mine]
        past = session.exec(select(TwinChange).where(col(TwinChange.device).startswith(f"{prefix}-")))
        changes = [
            (change.device[len(prefix) :], change.name, change.version, change.verb, change.state) for change in past
        ]
    return replies, sorted(rows, key=lambda row: row[:2]), sorted(changes, key=lambda change: change[:3])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(requests=REQUESTS)
def test_twin_requests_together_are_twin_requests_one_by_one(db: Database, requests: list[Any]) -> None:
    assert _asked(db, requests, together=True) == _asked(db, requests, together=False)


def test_the_property_of_twin_requests_catches_a_seeded_bug(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    get = TwinRows.get

    def forgetful(self: TwinRows, device: str, name: str) -> Any:
        """Reads the row anew, which does not hold yet what the transaction has changed."""
        self._documents.clear()
        return get(self, device, name)

    monkeypatch.setattr(TwinRows, "get", forgetful)
    requests = [("a", "", "update", {"x": number}, "reported", None) for number in range(2)]
    with pytest.raises((AssertionError, IntegrityError)):
        assert _asked(db, requests, together=True) == _asked(db, requests, together=False)


def questions(db: Database, count: int) -> int:
    """Statements for one batch of births of `count` devices, known and all on their old epochs."""
    said = [
        (DeviceMessage(device=f"q{n}", message=Birth(device=f"q{n}", session="s", epoch="e")), "") for n in range(count)
    ]
    counted: list[str] = []
    for _ in range(2):
        counted.clear()
        with db.write() as session:
            listen = partial(_counting, counted)
            event.listen(session.connection().engine, "before_cursor_execute", listen)
            Writer(db.hub_epoch, 32768).write(session, said, NOW, WriteResults())
            event.remove(session.connection().engine, "before_cursor_execute", listen)
    return len(counted)


def _counting(counted: list[str], _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    counted.append(statement)


def test_a_fleet_that_returns_asks_the_database_as_often_as_a_few_devices(db: Database) -> None:
    few = questions(db, 3)
    assert few > 2
    assert questions(db, 60) == few
