"""A learning on simulated history: fitted, rolled out, and what devices and people say of its limits."""

from __future__ import annotations

from typing import Any

from simulators import histories

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, LearnedSeries, LearningJob, Rollout
from cloud_hub.incidents import service as incidents
from cloud_hub.thresholds.learning import refit
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.rollouts import service as rollout_service
from cloud_hub.twins import service as twins
from shared.protocol.codec import encode, plain
from shared.protocol.messages import About, Alarm, Applied

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
PERIOD_S = 900
"""A quarter of an hour: as few samples as still give a band to each hour."""
FLEET = [f"press-{n}" for n in range(1, 5)]
TERMS = LimitPolicy(
    metrics=("cpu.load",), train_days=6, backtest_days=2, canary=0.3, watch_s=60, max_alarms=1, max_false_alarms=0
)


def plant(db: Database) -> None:
    """Store four devices with six days of history."""
    histories.devices(db, FLEET, "cpu.load", "disk.used")
    for n, device in enumerate(FLEET):
        histories.store(db, device, "cpu.load", *histories.course(6, PERIOD_S, n, NOW))


def learn(db: Database, policy: LimitPolicy = TERMS, target: str = "*") -> None:
    with db.write() as session:
        row = LearningJob(id="all", target=target, policy=plain(policy), actor="anna", created_us=NOW, due_us=NOW)
        learning_registry.put(session, row, "")


def fitted(db: Database, at_us: int = NOW) -> LearningJob:
    for _ in range(50):
        if not refit.run_once(db, at_us).again:
            break
    with db.read() as session:
        return learning_registry.get(session, "all")


def trial(db: Database) -> Rollout:
    with db.read() as session:
        return rollout_service.list_newest(session, "all", 1)[0]


def step(db: Database, after_s: float) -> None:
    rollout_service.run_once(db, NOW + int(after_s * SECOND), 32768)


def desired(db: Database, device: str) -> Any:
    with db.read() as session:
        return twins.load(session, device, "thresholds").state.get("desired", {}).get("limits")


def touched(db: Database) -> set[str]:
    return {device for device in FLEET if desired(db, device)}


def verify(db: Database, at_s: float) -> None:
    with db.write() as session:
        for device in FLEET:
            if (version := twins.load(session, device, "thresholds").version) > 0:
                word = Applied(shadow="thresholds", version=version, path="limits", state="verified")
                twins.record_progress(session, device, word, NOW + int(at_s * SECOND))


def confirm(db: Database) -> None:
    """Canaries and then the rest put it in force, and nothing happens."""
    for at_s in (1, 2, 63, 64, 65, 66, 127):
        step(db, at_s)
        verify(db, at_s)
    assert trial(db).state == "confirmed"


def series(db: Database, device: str = "press-1") -> LearnedSeries:
    with db.read() as session:
        return learning_registry.series(session, "all", device, "", 1)[0]


def alarm(db: Database, name: str, device: str, at_s: float, verdict: str = "", about: About = "") -> None:
    at = NOW + int(at_s * SECOND)
    one = Alarm(id=name, metric="cpu.load", kind="high", state="raised", priority="low", t_us=at, value=90, limit=80,
                about=about)  # fmt: skip
    with db.write() as session:
        incidents.handle_alarm(session, device, one, at, "")
        session.flush()
        session.get_one(AlarmRow, name).verdict = verdict


def own_limits(db: Database, device: str, **limits: Any) -> None:
    """What the device reports as its limits in force."""
    body = encode({"state": {"reported": {"limits": [{"metric": "cpu.load"} | limits]}}})
    with db.write() as session:
        twins.handle_request(session, device, "thresholds", "update", body, NOW, actor=device, max_bytes=32768)


def stands(db: Database, device: str, from_us: int, verdict: str = "", cleared_us: int | None = None) -> None:
    with db.write() as session:
        session.add(AlarmRow(
            id=f"of-{device}-{from_us}", device=device, metric="cpu.load", kind="high", priority="high", value=100.0,
            limit=90.0, state="raised" if cleared_us is None else "cleared", raised_us=from_us, received_us=from_us,
            cleared_us=cleared_us, verdict=verdict))  # fmt: skip
