"""A hub with its operator pages over a plant: one device runs hot, one has lost its camera, some are offline."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import FastAPI
from simulators import databases
from simulators.actions import action_service
from simulators.births import born
from simulators.brokers import free_port, listens, until
from sqlmodel import Session, select

from cloud_hub.access import tokens
from cloud_hub.api import http_server
from cloud_hub.api.dependencies import Hub
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, Incident
from cloud_hub.devices import notes, registry, tags
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents import worker as incident_worker
from cloud_hub.settings import Rest, Settings
from cloud_hub.telemetry import samples
from cloud_hub.twins import service as twins
from cloud_hub.ui.web import create_web_app
from shared.durations import HOUR_US, MINUTE_US, SECOND_US
from shared.protocol.codec import encode
from shared.protocol.messages import Alarm, Applied, Birth, Event, Metric, Sample

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

HOT, BLIND = "press-3", "inspection-camera-of-the-long-conveyor-in-hall-2"
TOKENS = {
    "anna": ("operator", None), "victor": ("viewer", None), "bob": ("operator", ("acme/hall-2",)),
    "robot": ("writer", None),
}  # fmt: skip
"""People and programs: their roles and scopes."""


@cache
def web_app() -> FastAPI:
    """The application of this process. To build its routes takes longer than most tests."""
    return create_web_app()


class WebApp:
    """The shared routes before one hub, as an ASGI application."""

    def __init__(self, hub: Hub) -> None:
        self.state = SimpleNamespace(hub=hub)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = web_app()
        app.state.hub = self.state.hub
        await app(scope, receive, send)


class Pages:
    """A hub with pages in this process. `published` are the messages that it would send."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        self.db = Database(url)
        self.published: list[Any] = []
        self.notified: list[str] = []
        self.actions = action_service()
        self.stop: Callable[[], None] = lambda: None
        """Ask the server of `served` to end."""
        self.hub = Hub(
            settings=Settings(state_dir=str(folder), **settings), db=self.db, publish=self.published.extend,
            notify=self.notified.append, actions=self.actions, connected=lambda: True,
        )  # fmt: skip
        with self.db.write() as session:
            self.tokens = {
                name: tokens.create(session, name, role, now_us(), "test", scope=scope)
                for name, (role, scope) in TOKENS.items()
            }

    def client(self, name: str = "", prefix: str = "") -> Any:
        """A browser without scripts, signed in as somebody."""
        client = TestClient(WebApp(self.hub), base_url="http://hub", raise_server_exceptions=False)
        client.headers["accept"] = "text/html"
        if name:
            assert sign_in(client, self.tokens[name]).status_code == 303
        return client

    def close(self) -> None:
        self.db.close()


def sign_in(client: Any, token: str) -> Any:
    return client.post(
        "/ui/login", data={"csrf": csrf(client.get("/ui/login")), "token": token}, follow_redirects=False
    )


def csrf(page: Any) -> str:
    """The CSRF token of the first form of a page."""
    text: str = page.text
    return text.partition('name="csrf" value="')[2].partition('"')[0]


@contextmanager
def open_pages(folder: Path, **settings: Any) -> Iterator[Pages]:
    one = Pages(folder, databases.sqlite(folder), **settings)
    yield one
    one.close()


@contextmanager
def served(pages: Pages, app: Any) -> Iterator[str]:
    """Serve the pages on a real socket; yields the address."""
    port = free_port()
    server = uvicorn.Server(http_server.config(app, Rest(port=port)))
    pages.stop = lambda: setattr(server, "should_exit", True)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until("the pages are served", lambda: listens(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


# -- the plant ---------------------------------------------------------------------------------------


def fill(pages: Pages, devices: int = 40) -> None:
    """A plant of two halls, with what an operator finds in the morning."""
    now = now_us()
    with pages.db.write() as session:
        for number in range(devices):
            name = f"sensor-{number:03d}"
            place = f"acme/hall-{1 + number % 2}/line-{number % 5}"
            _device(session, name, place, {"line": number % 5, "kind": "sensor"}, now)
            if number % 13 == 5:
                birth = Birth(device=name, session="s", epoch="e", state="offline")
                born(session, birth, now - (number + 3) * MINUTE_US)
        registry.register(session, "spare-press", now, actor="anna")
        _device(session, HOT, "acme/hall-1/line-1", {"line": 1, "kind": "press", "site": "north"}, now)
        _device(session, BLIND, "acme/hall-2/line-4", {"line": 4, "kind": "camera"}, now)
        _telemetry(session, now)
        _twin(session, now)
        notes.add(session, HOT, "the fan was replaced in May", now - 90 * MINUTE_US, actor="anna")
        _alarm(session, HOT, "a-hot", "temperature", "high", "critical", 92.4, 80.0, now - 12 * MINUTE_US)
        _alarm(session, BLIND, "a-stall", "digits/age_s", "high", "high", 61.0, 10.0, now - 7 * MINUTE_US)
        for number, priority in enumerate(("medium", "medium", "low")):
            device = f"sensor-{number * 6:03d}"
            _alarm(session, device, f"a-{number}", "cpu.load", "high", priority, 0.97, 0.9, now - number * HOUR_US)
    incident_worker.run_once(pages.db, None, pages.actions)


def _device(session: Session, name: str, place: str, words: dict[str, Any], now: int) -> None:
    metrics = [Metric(name="temperature", unit="Cel"), Metric(name="cpu.load", unit="1")]
    born(session, Birth(device=name, session="s", epoch="e", profile="raspberry-pi-5", version="1.4.0",
                        metrics=metrics), now)  # fmt: skip
    registry.assign_asset_path(session, name, place, now, within=None, actor="anna")
    tags.change(session, session.get_one(Device, name), words, now, actor="anna")


def _telemetry(session: Session, now: int) -> None:
    marks = StreamOffsets(session)
    source = marks.get((HOT, "e", "telemetry")).source
    marks.save()
    seconds = range(3600, 0, -5)
    warm = [
        Sample(metric="temperature", t_us=now - s * SECOND_US,
               value=70 + 4 * math.sin(s / 200) + max(0.0, (800 - s) / 40)) for s in seconds
    ]  # fmt: skip
    load = [Sample(metric="cpu.load", t_us=now - s * SECOND_US, value=0.4 + 0.1 * math.cos(s / 90))
            for s in range(3600, 0, -1)]  # fmt: skip
    mode = [Sample(metric="mode", t_us=now - 60 * SECOND_US, value="automatic")]
    samples.store_samples(session, samples.sample_rows(HOT, source, enumerate([*warm, *load, *mode], 1)))
    events = [
        Event(t_us=now - 13 * MINUTE_US, source="agent", level="warning", text="fan 2: 0 rpm"),
        Event(t_us=now - 12 * MINUTE_US, source="agent", level="error", text="temperature above 80 °C"),
        Event(t_us=now - 60 * MINUTE_US, source="agent", text="started"),
    ]
    samples.store_events(session, HOT, source, list(enumerate(events, 1)), "")


def _twin(session: Session, now: int) -> None:
    limits = [{"metric": "temperature", "high": 80.0, "low": 40.0, "deadband": 2.0, "priority": "critical"}]
    for name, desired, reported in (
        ("", {"settings": {"period_s": 2, "log_level": "info"}}, {"settings": {"period_s": 5, "log_level": "info"}}),
        ("thresholds", {"limits": limits}, {}),
    ):
        twins.update_desired(session, HOT, name, desired, now, actor="anna", max_bytes=32768)
        if reported:
            payload = encode({"state": {"reported": reported}})
            twins.handle_request(session, HOT, name, "update", payload, now, actor=HOT, max_bytes=32768)
    refused = Applied(shadow="", version=1, path="settings.period_s", state="refused", reason="must be at least 5")
    twins.record_progress(session, HOT, refused, now)


def _alarm(
    session: Session, device: str, number: str, metric: str, kind: Any, priority: Any, value: float, limit: float,
    t_us: int,
) -> None:  # fmt: skip
    alarm = Alarm(id=number, metric=metric, kind=kind, state="raised", priority=priority, t_us=t_us, value=value,
                  limit=limit)  # fmt: skip
    incidents.handle_alarm(session, device, alarm, t_us, "")


def incident_of(pages: Pages, device: str) -> str:
    with pages.db.read() as session:
        return session.exec(select(Incident.id).where(Incident.device == device)).one()
