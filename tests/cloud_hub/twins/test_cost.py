"""What a request about a twin asks of the database, and what becomes of one that is far too large."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from simulators.rest import RestHub, rest_hub
from sqlalchemy import event

from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.telemetry import samples
from shared.protocol.messages import Event
from shared.twin import shadow


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RestHub]:
    with rest_hub(tmp_path) as one:
        yield one


@pytest.fixture
def rest(hub: RestHub) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {hub.token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{hub.port}/api/v1", headers=headers, timeout=60) as client:
        yield client


def test_a_change_reads_the_document_once_and_a_get_goes_round_the_orm(hub: RestHub, rest: httpx.Client) -> None:
    seen: list[str] = []
    event.listen(hub.db.engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: seen.append(statement))
    assert rest.patch("/devices/press-3/twin", json={"desired": {"a": 1}}).json()["state"]["delta"] == {"a": 1}
    assert sum("FROM twins" in one for one in seen) == 1
    assert sum("FROM devices" in one for one in seen) == 1
    assert len(seen) <= 7
    seen.clear()
    answer = rest.get("/devices/press-3/twin")
    assert (answer.json()["state"]["desired"], answer.headers["etag"]) == ({"a": 1}, '"1"')
    assert seen == []


def test_a_revoked_token_and_a_removed_device_are_seen_at_once(hub: RestHub, rest: httpx.Client) -> None:
    rest.patch("/devices/press-3/twin", json={"desired": {"a": 1}})
    assert rest.get("/devices/press-3/twin").status_code == 200
    assert rest.delete("/devices/press-3").status_code == 204
    assert rest.get("/devices/press-3/twin").status_code == 404
    (mine,) = rest.get("/tokens").json()
    assert rest.delete(f"/tokens/{mine['id']}").status_code == 204
    assert rest.get("/devices/press-3/twin").status_code == 401


def test_the_source_of_an_event_is_a_name(hub: RestHub, rest: httpx.Client) -> None:
    with hub.db.write() as session:
        mark = StreamOffsets(session).get(("press-3", "e", "event"))
        samples.store_events(session, "press-3", mark.source, [(1, Event(t_us=1, source="clock", text="jumped"))], "")
    (found,) = rest.get("/devices/press-3/events").json()
    assert (found["device"], found["source"], found["seq"]) == ("press-3", "clock", 1)


def test_a_request_far_beyond_the_limit_is_not_parsed(monkeypatch: Any) -> None:
    monkeypatch.setattr(shadow, "parse", lambda payload: pytest.fail("parsed"))
    payload = json.dumps({"state": {"desired": {f"k{n}": None for n in range(30_000)}}}).encode()
    document, (reply,) = shadow.update(shadow.Document(), payload, 1, 32768)
    assert (document.version, reply.verb, reply.body["code"]) == (0, "update/rejected", 413)
