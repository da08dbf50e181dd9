"""The past of a signal from the database, and the daily backtest that decides whether a forecast is used."""

from __future__ import annotations

import numpy as np
import pytest
from simulators.births import born
from sqlmodel import Session

from cloud_hub.autoscale import Counts, forecasts, service
from cloud_hub.autoscale.core import sources
from cloud_hub.autoscale.core.backtest import Report
from cloud_hub.autoscale.core.signals import Reading
from cloud_hub.autoscale.core.target import Prediction
from cloud_hub.autoscale.core.targets import Platform, SignalEntry, TargetEntry
from cloud_hub.autoscale.core.turn import digest
from cloud_hub.autoscale.forecasts import Forecasts
from cloud_hub.autoscale.history import minutes
from cloud_hub.autoscale.signals import SignalContext, SignalUnknown
from cloud_hub.autoscale.store import Observed
from cloud_hub.autoscale.targets_file import Target, TargetsInForce
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import EscalationRow
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.telemetry import samples
from cloud_hub.telemetry.rollups.worker import RollupWorker
from shared.durations import DAY_US, HOUR_US, MINUTE_US
from shared.protocol.messages import Birth, Sample

NOW = 20_000 * DAY_US
START = NOW - 6 * HOUR_US
pytestmark = pytest.mark.one_database


def fill(session: Session, device: str, values: dict[int, float]) -> None:
    """A sample of `q` in each of these minutes after START."""
    born(session, Birth(device=device, session="s", epoch="e"), NOW)
    marks = StreamOffsets(session)
    source = marks.get((device, "e", "telemetry")).source
    found = [(n + 1, Sample(metric="q", t_us=START + n * MINUTE_US, value=value)) for n, value in values.items()]
    samples.store_samples(session, samples.sample_rows(device, source, found))
    marks.save()


@pytest.fixture
def rolled(db: Database) -> Database:
    with db.write() as session:
        fill(session, "d1", {n: 1.0 + n for n in range(120)})
        fill(session, "d2", {n: 3.0 + n for n in range(60)})
    worker = RollupWorker(db)
    while worker.run_once(NOW + DAY_US).again:
        pass
    return db


def past(db: Database, source: sources.Source) -> list[float]:
    return [float(v) for v in minutes(source, SignalContext(db), START, START + 2 * HOUR_US)]


def test_the_past_of_telemetry_is_its_rollups(rolled: Database) -> None:
    one = past(rolled, sources.TelemetrySource(metric="q", device="d1"))
    assert one == [1.0 + n for n in range(120)]
    both = past(rolled, sources.TelemetrySource(metric="q", where="*", aggregate="sum"))
    assert both[:60] == [4.0 + 2 * n for n in range(60)]
    assert np.isnan(both[60:]).all(), "half of the devices are fewer than the coverage"
    some = past(rolled, sources.TelemetrySource(metric="q", where="*", aggregate="max", coverage=0.5))
    assert (some[0], some[60]) == (3.0, 61.0)


def test_the_past_of_escalations_is_their_arrival(db: Database) -> None:
    with db.write() as session:
        for number in range(6):
            session.add(EscalationRow(id=f"e{number}", device="d1", model="m", digest="", number=number, reason="",
                                      label="", margin=0.1, height=1, width=1, frame=b"x", t_us=NOW,
                                      received_us=START + MINUTE_US + number))  # fmt: skip
    found = past(db, sources.EscalationSource())
    assert (found[0], found[1], len(found)) == (0.0, 0.1, 120)


def test_a_queue_has_no_stored_past(db: Database) -> None:
    with pytest.raises(SignalUnknown, match="scrape it into a Prometheus"):
        past(db, sources.InferenceSource(pool="large"))


class Quiet:
    name = "platform"

    def current(self) -> Counts:
        return Counts(desired=1)

    def scale(self, to: int, key: str, *, dry_run: bool = False) -> int:
        return to


def target(source: sources.Source, mode: str = "auto") -> Target:
    entry = TargetEntry(
        name="web", platform=Platform(kind="x"), maximum=8, prediction=Prediction(mode=mode),  # type: ignore[arg-type]
        signals=(SignalEntry(name="q", per_instance=10.0, source=source),),
    )  # fmt: skip
    return Target(entry, Quiet(), digest(entry.policy))


def forecasts_of(db: Database, one: Target, now: int) -> Forecasts:
    in_force = TargetsInForce("")
    in_force.targets = {one.name: one}
    return Forecasts(db, in_force, lambda: now)


def test_a_short_past_enables_no_forecast_and_says_so(rolled: Database) -> None:
    one = target(sources.TelemetrySource(metric="q", device="d1"))
    found = forecasts_of(rolled, one, NOW)
    found.run_once()
    with rolled.read() as session:
        verdict = service.get(session, "web").backtest
    assert not verdict["enabled"]
    assert "whole days of history" in verdict["reason"]
    reading = Reading(signal="q", value=5.0, t_us=NOW)
    assert found.outlook(one, Observed(target=one, counts=None, readings=(reading,)), NOW) is None


def test_a_target_is_tested_once_a_day_and_when_its_policy_changes(
    rolled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    tested = []
    monkeypatch.setattr(forecasts.Forecasts, "test", lambda self, one: tested.append(one.digest))
    clock = [NOW]
    in_force = TargetsInForce("")
    in_force.targets = {"web": target(sources.TelemetrySource(metric="q", device="d1"))}
    found = Forecasts(rolled, in_force, lambda: clock[0])
    for hours, count in ((0, 1), (23, 1), (25, 2), (26, 2)):
        clock[0] = NOW + hours * HOUR_US
        found.run_once()
        assert len(tested) == count
    in_force.targets = {"web": target(sources.TelemetrySource(metric="q", device="d2"), mode="always")}
    found.run_once()
    assert len(set(tested)) == 2


def test_an_enabled_forecast_is_made_from_the_past_and_the_present_reading(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    days = 5
    daily = 20 + 15 * np.sin(np.arange(days * 1440) / 1440 * 2 * np.pi)
    monkeypatch.setattr(forecasts, "minutes", lambda *_: daily)
    monkeypatch.setattr(forecasts, "backtest", lambda *_: Report(enabled=True, reason="wins", days=3))
    one = target(sources.TelemetrySource(metric="q", device="d1"))
    one = Target(
        TargetEntry(**({f: getattr(one.entry, f) for f in one.entry.__struct_fields__}
                       | {"prediction": Prediction(history_days=float(days))})), Quiet(), one.digest,
    )  # fmt: skip
    found = forecasts_of(db, one, NOW)
    assert found.test(one).enabled
    reading = Reading(signal="q", value=20.0, t_us=NOW + 1_000_000)
    outlook = found.outlook(one, Observed(target=one, counts=None, readings=(reading,)), NOW)
    assert outlook is not None
    assert (outlook.signal, outlook.t_us) == ("q", reading.t_us)
    assert 15 < outlook.soon[6] < 25
    assert outlook.usable
    unknown = Reading(signal="q", value=None, t_us=NOW)
    assert found.outlook(one, Observed(target=one, counts=None, readings=(unknown,)), NOW) is None
