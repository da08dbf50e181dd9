"""The event stream of a page: one event of a kind a second, bounded, and over with the session."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from simulators.pages_world import HOT, Pages, WebApp, csrf, served

from cloud_hub.access.sessions import STREAMS_EACH
from cloud_hub.ui import live
from cloud_hub.ui.session import COOKIE


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PERIOD_S", 0.01)


def session_of(pages: Pages, client: Any) -> Any:
    return pages.hub.sessions.get(client.cookies[COOKIE], 0, 1e9, use=False)


def test_a_stream_brings_what_changed_and_new_samples(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIFE_S", 0.3)
    client = pages.client("anna")
    asked = {"topics": "device", "device": HOT, "metric": "temperature"}
    answer = client.get("/ui/live", params=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith("retry: 5000\n\n")
    assert answer.text.count("event: samples\ndata: {") == 1
    assert session_of(pages, client).streams == 0


def test_a_stream_ends_when_its_token_does(pages: Pages) -> None:
    """Without the check the stream would last ten minutes."""
    client = pages.client("anna")
    form = {"csrf": csrf(client.get("/ui/"))}
    copy = pages.client()
    copy.cookies.update(dict(client.cookies))
    begun = live.Watch.changed

    def sign_out(watch: live.Watch, *arguments: Any) -> set[str]:
        client.post("/ui/logout", data=form, follow_redirects=False)
        return begun(watch, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.Watch, "changed", sign_out)
        assert copy.get("/ui/live", params={"topics": "alarms"}).status_code == 200


def test_too_many_streams_are_refused_with_the_time_to_wait(pages: Pages) -> None:
    client = pages.client("anna")
    session = session_of(pages, client)
    session.streams = STREAMS_EACH
    answer = client.get("/ui/live", params={"topics": "alarms"})
    session.streams = 0
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "15")


def test_a_stream_does_not_keep_the_session_alive(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIFE_S", 0.02)
    client = pages.client("anna")
    session = session_of(pages, client)
    session.used_us -= 10**9
    before = session.used_us
    client.get("/ui/live", params={"topics": "alarms"})
    client.get("/ui/alarms", headers={"hx-request": "true", "x-live": "1"})
    assert session.used_us == before
    client.get("/ui/alarms", headers={"hx-request": "true"})
    assert session.used_us > before


def test_the_place_of_a_stream_that_is_cut_off_is_free_again(pages: Pages) -> None:
    client = pages.client("anna")
    session = session_of(pages, client)

    async def cut() -> None:
        viewer: Any = type("V", (), {"hub": pages.hub, "session": session})()
        stream = live._events(viewer, live.Watch(topics=frozenset()))
        assert await anext(stream)
        assert session.streams == 1
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(cut())
    assert session.streams == 0


def test_an_open_stream_does_not_delay_the_end_of_the_hub(pages: Pages, caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn waits for requests under way, and cuts them off with an error in the log."""
    with served(pages, WebApp(pages.hub)) as address, httpx.Client(base_url=address) as browser:
        token = csrf(browser.get("/ui/login"))
        browser.post("/ui/login", data={"csrf": token, "token": pages.tokens["anna"]})
        with browser.stream("GET", "/ui/live", params={"topics": "alarms"}) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 5000"
            pages.stop()
            with pytest.raises(httpx.RemoteProtocolError):
                next(line for line in lines if line.startswith("never"))
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert pages.hub.sessions.open_streams == 0
