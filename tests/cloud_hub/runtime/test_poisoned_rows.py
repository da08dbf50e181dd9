"""Each kind of item: a poisoned row stops no other, is parked with its error, and stays so over restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import TypeAdapter
from simulators.actions import action_service, command_row
from sqlmodel import Session, select

from cloud_hub.actions import worker as actions
from cloud_hub.autoscale import Counts
from cloud_hub.autoscale.core.sources import EscalationSource
from cloud_hub.autoscale.core.targets import Platform as PlatformEntry
from cloud_hub.autoscale.core.targets import SignalEntry, TargetEntry
from cloud_hub.autoscale.core.turn import digest
from cloud_hub.autoscale.lease import HubLease
from cloud_hub.autoscale.signals import SignalContext
from cloud_hub.autoscale.targets_file import Target, TargetsInForce
from cloud_hub.autoscale.worker import Autoscaler
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    Action,
    AlarmRow,
    AuditRow,
    Command,
    Configuration,
    Device,
    EscalationRow,
    FailedItem,
    Incident,
    Job,
    LearnedSeries,
    LearnedState,
    LearningJob,
    Notification,
    PeerState,
    Rollout,
    RolloutDevice,
    Rollup,
    RollupDue,
    ScaleTarget,
    TelemetrySample,
    TwinRow,
)
from cloud_hub.devices import commands
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents import worker as diagnosis
from cloud_hub.inference.experts import Opinion
from cloud_hub.inference.experts import worker as experts
from cloud_hub.inference.experts.worker import ExpertWorker
from cloud_hub.jobs import service as jobs
from cloud_hub.notifications import Page
from cloud_hub.notifications.delivery import ChannelWorker
from cloud_hub.runtime.items import TRIES, wait_us
from cloud_hub.settings import Actions, Retention, channels
from cloud_hub.settings.experts import Experts
from cloud_hub.telemetry import retention
from cloud_hub.telemetry.retention import RetentionWorker
from cloud_hub.telemetry.rollups.store import HOUR
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.thresholds.forecasts.warnings import Forecast
from cloud_hub.thresholds.learning import refit
from cloud_hub.thresholds.monitoring import forecasts
from cloud_hub.thresholds.monitoring.anomalies import AnomalyMonitor
from cloud_hub.thresholds.monitoring.forecasters import ForecasterStore
from cloud_hub.thresholds.monitoring.forecasts import ForecastMonitor
from cloud_hub.thresholds.monitoring.peers import PeerMonitor
from cloud_hub.thresholds.rollouts import service as rollout_service
from cloud_hub.twins import service as twins
from shared.durations import HOUR_US
from shared.ids import uuid7

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND // (24 * HOUR_US) * 24 * HOUR_US
BAD, GOOD = "press-1", "press-2"
"""The bad one's rows come first in every order."""
TERMS: dict[str, Any] = {"metrics": ["cpu.load"]}


def number(device: str, n: int = 0) -> str:
    """An id; those of the bad device sort first."""
    return uuid7(NOW - (HOUR_US if device == BAD else 0), n)


def raised(device: str, *, incident: str = "", **change: Any) -> AlarmRow:
    row: dict[str, Any] = {
        "id": number(device), "device": device, "metric": "digits/age_s", "kind": "high", "priority": "high",
        "state": "raised", "value": 9.0, "limit": 2.0, "raised_us": NOW, "received_us": NOW, "incident": incident,
    }  # fmt: skip
    return AlarmRow(**(row | change))


def opened(session: Session, device: str, **change: Any) -> None:
    """An incident with an alarm."""
    one = number(device)
    session.add(Incident(id=one, device=device, subject="digits", opened_us=NOW, page=one, traceparent=""))
    session.add(raised(device, incident=one, **change))


# -- one case for each kind of item ------------------------------------------------------------------


class Reader:
    """An expert that cannot take some frames, and says so by an error of its own."""

    name = "reader 1"

    def answer(
        self,
        shape: tuple[int, ...],
        frames: Sequence[bytes],
        *,
        dtype: str = "uint8",
        color: str = "gray",
        origins: Any = (),
    ) -> list[Opinion]:
        if any(len(frame) != shape[0] * shape[1] for frame in frames):
            raise IndexError("frame")
        return [Opinion(label="7", confidence=1.0)] * len(frames)


def escalations(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device, size in ((BAD, 3), (GOOD, 64)):
        session.add(EscalationRow(
            id=number(device), device=device, model="digits", digest="d", number=1, reason="no-gate", label="1",
            margin=0.5, height=8, width=8, frame=bytes(size), features={}, t_us=NOW, received_us=NOW,
        ))  # fmt: skip


def run_experts(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(experts, "now_us", lambda: now_us)
    ExpertWorker(db, {"digits": Reader()}, Experts(), 32768).run_once()


def undiagnosed(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device in (BAD, GOOD):
        opened(session, device)
    session.add(TwinRow(device=BAD, name="", version=1, state="evil", deleted=False))


def run_diagnosis(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(diagnosis, "now_us", lambda: now_us)
    diagnosis.run_once(db, None, action_service(Actions(automatic=[])))


def under_way(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device, state in ((BAD, "evil"), (GOOD, {"reported": {"models": {"digits": {"starts": 1}}}})):
        session.add(TwinRow(device=device, name="", version=1, state=state, deleted=False))
        session.add(command_row(number(device), device, incident=number(device), state="approved", changed_us=NOW))


def overdue(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device in (BAD, GOOD):
        session.add(Command(id=number(device), device=device, verb="restart", target="m", created_us=1, expires_us=2))
    real = commands._end

    def end(session: Session, row: Command, *rest: Any) -> None:
        if row.device == BAD:
            raise ValueError("evil")
        real(session, row, *rest)

    patch.setattr(commands, "_end", end)


def run_actions(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    actions.run_once(db, action_service(), now_us)


def suppressed(session: Session, patch: pytest.MonkeyPatch) -> None:
    """Shelved by a suppression that is over."""
    for device in (BAD, GOOD):
        session.add(raised(device, suppressed="shelved"))
    real = incidents._open_for

    def open_for(session: Session, device: str, *rest: Any) -> Incident:
        if device == BAD:
            raise KeyError(device)
        return real(session, device, *rest)

    patch.setattr(incidents, "_open_for", open_for)


def run_alarms(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    incidents.apply_suppression_changes(db, now_us)


def rollouts(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device, wanted in ((BAD, "evil"), (GOOD, [{"metric": "cpu.load", "high": 80.0}])):
        session.add(Rollout(id=number(device), devices=[device], wanted=wanted, started_us=NOW, watch_s=60,
                            max_alarms=1, canaries=1, stage_us=NOW))  # fmt: skip
        session.add(RolloutDevice(rollout=number(device), device=device))
    real = rollout_service.rollout_status

    def look(session: Session, row: Rollout) -> Any:
        if not isinstance(row.wanted, list):
            raise TypeError("wanted is no list")
        return real(session, row)

    patch.setattr(rollout_service, "rollout_status", look)


def run_rollouts(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    rollout_service.run_once(db, now_us, 32768)


def learning_jobs(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device, refitted in ((BAD, "evil"), (GOOD, None)):
        session.add(LearningJob(id=device, target="*", policy=TERMS, actor="anna", created_us=1, due_us=NOW - 1,
                             refit=refitted))  # fmt: skip


def run_refit(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        refit.run_once(db, now_us)


def watched(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device in (BAD, GOOD):
        session.add(LearningJob(id=device, target="*", policy=TERMS | {"monitor": True}, actor="anna", created_us=1,
                             due_us=1 << 61))  # fmt: skip
        session.add(LearnedSeries(learning=device, device=device, metric="cpu.load"))
        session.add(TelemetrySample(device=device, metric="cpu.load", t_us=NOW, source=1, seq=ord(device[-1]),
                                    value=1.0, quality="good"))  # fmt: skip
    session.add(LearnedState(learning=BAD, number=0, series=[5], state=b"", live_us=1))


def run_anomalies(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    worker = AnomalyMonitor(db, incidents.handle_alarm)
    while worker.run_once(now_us + SECOND).again:
        pass


def peers(session: Session, patch: pytest.MonkeyPatch) -> None:
    """States that nobody asks for any more."""
    for device, standing in ((BAD, [5]), (GOOD, [])):
        session.add(PeerState(learning="gone", metric=device, form="", standing=standing, state=b"", upto_us=1,
                              live_us=1))  # fmt: skip


def run_peers(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    worker = PeerMonitor(db, incidents.handle_alarm)
    while worker.run_once(now_us).again:
        pass


JUDGED: set[str] = set()


def foreseen(session: Session, patch: pytest.MonkeyPatch) -> None:
    JUDGED.clear()
    session.add(LearningJob(id="all", target="*", policy=TERMS | {"warn_probability": 0.5}, actor="anna", created_us=1,
                         due_us=1 << 61))  # fmt: skip
    for device in (BAD, GOOD):
        session.add(LearnedSeries(learning="all", device=device, metric="cpu.load"))

    def judged(_session: Session, _courses: Any, one: tuple[str, str], *_rest: Any) -> list[Forecast]:
        if one[0] == BAD:
            raise FloatingPointError("evil")
        JUDGED.add(one[0])
        return [Forecast(probability=None, limit=None, side="high", at_us=None, reason="")]

    patch.setattr(forecasts, "side_forecasts", judged)


def run_forecasts(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    worker = ForecastMonitor(db, ForecasterStore(), incidents.handle_alarm)
    while worker.run_once(now_us).again:
        pass


def scheduled(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device, query in ((BAD, "tags.x ="), (GOOD, "*")):
        session.add(Job(id=number(device), kind="tags", query=query, content={"a": 1}, actor="anna", created_us=NOW,
                        start_us=NOW, deadline_us=NOW + HOUR_US))  # fmt: skip


def run_jobs(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        jobs.run_once(db, now_us, 32768)


def configured(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device, target in ((BAD, "tags.x ="), (GOOD, f"id = '{GOOD}'")):
        session.add(Configuration(id=device, target=target, content={"": {"a": 1}}, actor="anna", created_us=NOW))


def run_configurations(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    worker = ConfigurationReconciler(db, 32768, 300, lambda: now_us)
    while worker.run_once().again:
        pass


def due_hours(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device in (BAD, GOOD):
        session.add(RollupDue(device=device, t_us=NOW - 48 * HOUR_US))
        session.add(TelemetrySample(device=device, metric="cpu.load", t_us=NOW - 48 * HOUR_US, source=1,
                                    seq=ord(device[-1]), value=1.0, quality="good"))  # fmt: skip
    session.add(Rollup(step_s=HOUR, device=BAD, metric="cpu.load", t_us=NOW - 48 * HOUR_US, buckets=b"evil"))


def run_rollups(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    worker = RollupWorker(db)
    while worker.run_once(now_us).again:
        pass


def old(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device in (BAD, GOOD):
        for hour in (24, 3 * 24):
            session.add(TelemetrySample(device=device, metric="cpu.load", t_us=NOW - hour * HOUR_US, source=1,
                                        seq=100 * hour + ord(device[-1]), value=1.0, quality="good"))  # fmt: skip
    real = retention._samples

    def samples(session: Session, *, device: str, **rest: Any) -> int:
        if device == BAD:
            raise OverflowError("evil")
        return real(session, device=device, **rest)

    patch.setattr(retention, "_samples", samples)


def run_retention(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    worker = RetentionWorker(db, Retention(telemetry_days=2))
    worker.run_once(now_us)
    while worker.run_once(now_us).again:
        pass


@dataclass
class Taker:
    """A receiver of notifications."""

    most: int = 100

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        """Well."""


CHANNEL: Any = TypeAdapter(channels.AnyChannel).validate_python(
    {"kind": "webhook", "url": "https://ops.example", "group_wait_s": 0}
)


def paged(session: Session, patch: pytest.MonkeyPatch) -> None:
    opened(session, BAD, priority="evil")
    opened(session, GOOD)


def paged_over_a_broken_row(session: Session, patch: pytest.MonkeyPatch) -> None:
    for device in (BAD, GOOD):
        opened(session, device)
    session.add(Notification(id=number(BAD, 9), channel="ops", page=number(BAD), device=BAD, state="notified",
                             due_status="open", sent_status="open", since_us=NOW, notified=["evil"]))  # fmt: skip


def run_notify(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    worker = ChannelWorker(db, "ops", CHANNEL, Taker(), lambda: 0.5, lambda: now_us)
    with db.write() as session:
        worker._store(session, "", {"cursor": NOW - 2 * HOUR_US})
    worker.run_once()


def good_page_is_sent(session: Session) -> list[str]:
    rows = session.exec(select(Notification).where(Notification.page == number(GOOD)))
    return [row.state for row in rows if row.sent_status == "open"]


@dataclass
class Platform:
    """A platform with one instance."""

    name: str = "platform"

    def current(self) -> Counts:
        return Counts(desired=1)

    def scale(self, to: int, key: str, *, dry_run: bool = False) -> int:
        return to


def stored_targets(session: Session, patch: pytest.MonkeyPatch) -> None:
    session.add(ScaleTarget(name=BAD, platform="platform", state="{"))
    session.add(ScaleTarget(name=GOOD, platform="platform"))


def run_autoscale(db: Database, now_us: int, patch: pytest.MonkeyPatch) -> None:
    source = EscalationSource()
    entries = [
        TargetEntry(name=name, maximum=3, platform=PlatformEntry(kind="platform"),
                    signals=(SignalEntry(name="load", per_instance=5.0, unit="1/s", source=source),))
        for name in (BAD, GOOD)
    ]  # fmt: skip
    in_force = TargetsInForce("")
    in_force.targets = {entry.name: Target(entry, Platform(), digest(entry.policy)) for entry in entries}
    lease = HubLease(db, lambda: now_us / 1e6, lambda: now_us, alone=True)
    Autoscaler(db, in_force, lease, SignalContext(db), clock=lambda: now_us).run_once()


@dataclass(frozen=True)
class Case:
    """Rows to plant, a run of a new worker, and a query that finds what became of the good one."""

    worker: str
    kind: str
    plant: Callable[[Session, pytest.MonkeyPatch], None]
    run: Callable[[Database, int, pytest.MonkeyPatch], None]
    done: Callable[[Session], Any]


CASES = [
    Case("experts", "escalation", escalations, run_experts,
         lambda session: session.get_one(EscalationRow, number(GOOD)).answer == "7"),
    Case("diagnosis", "incident", undiagnosed, run_diagnosis,
         lambda session: session.get_one(Incident, number(GOOD)).diagnosed_us),
    Case("actions", "action", under_way, run_actions,
         lambda session: session.get_one(Action, number(GOOD)).state != "approved"),
    Case("actions", "command", overdue, run_actions, lambda session: session.get_one(Command, number(GOOD)).done_us),
    Case("alarms", "alarm", suppressed, run_alarms,
         lambda session: session.get_one(AlarmRow, number(GOOD)).incident),
    Case("rollouts", "rollout", rollouts, run_rollouts,
         lambda session: session.get_one(RolloutDevice, (number(GOOD), GOOD)).state == "pushed"),
    Case("refit", "learning", learning_jobs, run_refit, lambda session: session.get_one(LearningJob, GOOD).reason),
    Case("anomalies", "group", watched, run_anomalies,
         lambda session: [state.per_day for state in session.exec(select(LearnedState)) if state.learning == GOOD]),
    Case("peers", "state", peers, run_peers, lambda session: session.get(PeerState, ("gone", GOOD)) is None),
    Case("forecasts", "series", foreseen, run_forecasts, lambda session: GOOD in JUDGED),
    Case("jobs", "job", scheduled, run_jobs,
         lambda session: session.get_one(Job, number(GOOD)).state == "completed"),
    Case("configurations", "configuration", configured, run_configurations,
         lambda session: twins.load(session, GOOD, "").state == {"desired": {"a": 1}}),
    Case("rollups", "day", due_hours, run_rollups,
         lambda session: session.get(RollupDue, (GOOD, NOW - 48 * HOUR_US)) is None),
    Case("retention", "telemetry", old, run_retention, lambda session: len(
        session.exec(select(TelemetrySample).where(TelemetrySample.device == GOOD)).all()) == 1),
    Case("notify-ops", "page", paged, run_notify, good_page_is_sent),
    Case("notify-ops", "page", paged_over_a_broken_row, run_notify, good_page_is_sent),
    Case("autoscale", "target", stored_targets, run_autoscale,
         lambda session: session.get_one(ScaleTarget, GOOD).decided_us),
]  # fmt: skip


def failed(db: Database) -> list[FailedItem]:
    with db.read() as session:
        return list(session.exec(select(FailedItem)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.worker}-{case.kind}")
def test_one_poisoned_row_stops_no_other_and_is_parked_over_restarts(
    url: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Database(url)
    with db.write() as session:
        session.add_all(Device(id=device, state="online") for device in (BAD, GOOD))
        session.flush()
        case.plant(session, monkeypatch)
    now_us = NOW
    for tries in range(1, TRIES + 1):
        case.run(db, now_us, monkeypatch)
        with db.read() as session:
            assert case.done(session), "the other one goes on"
        (row,) = failed(db)
        assert (row.worker, row.kind, row.failures) == (case.worker, case.kind, tries)
        assert (row.parked_us is not None) == (tries == TRIES)
        case.run(db, now_us, monkeypatch)
        assert failed(db) == [row], "it waits"
        db.close()
        db = Database(url)  # a restart forgets nothing
        now_us += wait_us(tries)
    case.run(db, now_us + HOUR_US, monkeypatch)
    assert failed(db) == [row], "a parked item is left alone"
    with db.read() as session:
        (event,) = session.exec(select(AuditRow).where(AuditRow.kind == "worker.item-parked"))
    assert (event.subject, event.detail["item"]) == (f"{case.worker} {case.kind}", row.item)
    db.close()
