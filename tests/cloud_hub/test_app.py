"""A whole hub in this process: every loop in its thread, a real broker, and REST to see what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulators import histories
from simulators.brokers import broker_process, until

from cloud_hub.access import tokens
from cloud_hub.app import HubApp
from cloud_hub.clock import now_us
from cloud_hub.settings import Discovery, Mqtt, Settings
from cloud_hub.thresholds import worker

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

MINUTE = 60_000_000
LIMIT = 70.0


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubApp]:
    """A hub that is about to run, beside its broker. It looks ahead each second: a minute would show no more."""
    monkeypatch.setattr(worker, "FORECAST_S", 1.0)
    broker = broker_process("embedded", tmp_path)
    broker.start()
    mqtt = Mqtt(address=f"127.0.0.1:{broker.port}")
    yield HubApp(Settings(state_dir=str(tmp_path / "hub"), mqtt=mqtt, discovery=Discovery(announce=False)))
    broker.stop()


def rising(crossing_us: int) -> tuple[Any, Any]:
    """(t_us, values) of six days until now: every four hours it climbs to its limit, as it will at `crossing_us`."""
    t_us = now_us() - MINUTE // 60 - 5 * MINUTE * np.arange(6 * 288, dtype=np.int64)[::-1]
    hours = ((t_us - crossing_us) / (60 * MINUTE) + 3.5) % 4 - 3.5
    noise = np.random.default_rng(5).normal(0, 0.3, t_us.size)
    return t_us, np.where(hours < 0.25, LIMIT + 10 * hours, LIMIT - 35) + noise


def foretold(rest: Any, device: str) -> Any:
    """What REST says of minutes ahead, once the hub has learned it."""
    found = rest.get("/thresholds/forecast", params={"device": device, "metric": "cpu.load"}).json()
    return found if found["probability"] is not None else None


def test_a_crossing_ahead_is_told_by_a_running_hub_before_it_comes(hub: HubApp) -> None:
    """Of two that do the same two hours apart, only one is near its limit."""
    histories.devices(hub.db, ["press-1", "press-2"], "cpu.load")
    crossing_us = now_us() + 8 * MINUTE
    histories.store(hub.db, "press-1", "cpu.load", *rising(crossing_us))
    histories.store(hub.db, "press-2", "cpu.load", *rising(crossing_us + 120 * MINUTE))
    with hub.db.write() as session:
        token = tokens.create(session, "tester", "operator", now_us(), "test")
    with TestClient(hub.rest(), base_url="http://hub/api/v1", headers={"Authorization": f"Bearer {token}"}) as rest:
        desired = {"limits": [{"metric": "cpu.load", "high": LIMIT}]}
        for device in ("press-1", "press-2"):
            assert rest.patch(f"/devices/{device}/twin/name/thresholds", json={"desired": desired}).is_success
        policy = {"metrics": ["cpu.load"], "train_days": 5, "backtest_days": 1, "warn_probability": 0.5}
        assert rest.put("/learning-jobs/ahead", json={"target": "*", "policy": policy}).status_code == 201
        near, far = (until("a forecast", lambda n=n: foretold(rest, f"press-{n}"), 60) for n in (1, 2))
        assert (near["limit"], near["side"], far["limit"]) == (LIMIT, "high", LIMIT)
        assert far["probability"] < 0.5 <= near["probability"]
        (alarm,) = until("a warning", lambda: rest.get("/alarms").json(), 60)
        assert (alarm["device"], alarm["about"], alarm["state"]) == ("press-1", "forecast", "raised")
        assert (alarm["priority"], alarm["limit"]) == ("low", LIMIT)
        assert alarm["value"] >= 0.5
        assert alarm["raised_us"] < crossing_us
