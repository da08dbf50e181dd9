"""What a person asks telemetry: last values, a series in so many points, who stands highest; each told as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulators import databases

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, RollupDue
from cloud_hub.errors import HubError
from cloud_hub.settings import Retention
from cloud_hub.telemetry import samples
from cloud_hub.telemetry.retention import RetentionWorker
from cloud_hub.telemetry.rollups.last_values import device_last_values, devices_of, fleet_last_values
from cloud_hub.telemetry.rollups.ranges import HOURS, RangeResult, query_range
from cloud_hub.telemetry.rollups.top_k import SHORT_US, top_devices
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.telemetry.samples import SampleRow
from shared.durations import DAY_US, HOUR_US, MINUTE_US

START = 1_800_000_000_000_000 // DAY_US * DAY_US
NOW = START + 3 * DAY_US


def store(db: Database, rows: list[SampleRow]) -> None:
    with db.write() as session:
        samples.store_samples(session, rows)


def roll(db: Database, now_us: int = NOW) -> None:
    roller = RollupWorker(db)
    while roller.run_once(now_us).again:
        pass


def minutes(
    device: str, values: Iterator[float] | np.ndarray, metric: str = "x", start_us: int = START
) -> list[SampleRow]:
    """A sample a minute."""
    return [(device, metric, start_us + n * MINUTE_US, 1, n, float(v), None, "good") for n, v in enumerate(values)]


# -- last ------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(db: Database) -> Database:
    with db.write() as session:
        session.add_all(Device(id=f"d{n}", tags={"n": n}, assigned_path=f"acme/{'ab'[n % 2]}") for n in range(5))
        session.flush()
    for n in range(5):
        rows: list[SampleRow] = [(f"d{n}", "x", START + k, 1, k, n + k / 10, None, "good") for k in range(3)]
        store(db, [*rows, (f"d{n}", "door", START, 1, 9, None, "open", "uncertain"),
                   (f"d{n}", "x", NOW + 2 * DAY_US, 1, 10, 99.0, None, "good")])  # fmt: skip
    return db


def test_the_newest_of_each_metric_and_none_from_a_clock_far_ahead(fleet: Database) -> None:
    with fleet.read() as session:
        found = [(one.metric, one.t_us, one.value, one.quality) for one in device_last_values(session, "d3", None, NOW)]
        assert found == [("door", START, "open", "uncertain"), ("x", START + 2, 3.2, "good")]
        assert device_last_values(session, "nobody", None, NOW) == []


def test_a_fleet_page_by_page_in_order(fleet: Database) -> None:
    found, after, pages = [], "", 0
    with fleet.read() as session:
        while True:
            rows, after = fleet_last_values(session, NOW, metric=None, where=None, limit=3, after=after)
            found += [(one.device, one.metric) for one in rows]
            pages += 1
            if not after:
                break
    assert found == [(f"d{n}", metric) for n in range(5) for metric in ("door", "x")]
    assert pages == 3


def test_only_of_devices_that_meet_the_condition_and_lie_in_the_scope(fleet: Database) -> None:
    with fleet.read(scope=("acme/a",)) as session:
        rows, after = fleet_last_values(session, NOW, metric="x", where="tags.n > 0", limit=10, after="")
    assert ([one.device for one in rows], after) == (["d2", "d4"], "")


def test_the_last_value_outlives_retention(fleet: Database) -> None:
    roll(fleet, NOW + 90 * DAY_US)
    sweep = RetentionWorker(fleet, Retention(telemetry_days=1))
    sweep.run_once(NOW + 100 * DAY_US)
    while sweep.run_once(NOW + 100 * DAY_US).again:
        pass
    with fleet.read() as session:
        assert [(one.metric, one.value) for one in device_last_values(session, "d1", None, NOW + 100 * DAY_US)] == [
            ("door", "open"), ("x", 99.0),
        ]  # fmt: skip


# -- range -----------------------------------------------------------------------------------------


def seen(db: Database, start_us: int, end_us: int, points: int = 1000, resolution: str | None = None) -> RangeResult:
    with db.read() as session:
        return query_range(session, "a", "x", start_us, end_us, points=points, resolution=resolution)


@pytest.fixture(scope="module")
def three_days(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A series of three days, rolled up; to be read only."""
    with databases.empty(tmp_path_factory.mktemp("three_days"), server) as url:
        db = Database(url)
        store(db, minutes("a", np.arange(4320) / 7))
        roll(db)
        yield db
        db.close()


@pytest.mark.parametrize(
    ("span_us", "points", "resolution"),
    [(HOUR_US, 1000, "raw"), (HOUR_US, 59, "5m"), (20 * HOUR_US, 1000, "5m"), (3 * DAY_US, 300, "15m"),
     (3 * DAY_US, 100, "1h"), (3 * DAY_US, 12, "6h"), (3 * DAY_US, 3, "1d")],
)  # fmt: skip
def test_the_finest_resolution_that_fits(three_days: Database, span_us: int, points: int, resolution: str) -> None:
    found = seen(three_days, START, START + span_us, points)
    assert found.resolution == resolution
    assert 0 < max(len(found.samples), len(found.buckets)) <= points
    total = len(found.samples) or int(found.buckets.count.sum())
    assert total == span_us // MINUTE_US


def test_it_says_what_would_fit(db: Database) -> None:
    store(db, minutes("a", np.arange(20)))
    with pytest.raises(HubError, match=r"more than 10000 points: ask for resolution 5m"):
        seen(db, START, START + 30 * DAY_US, resolution="1m")
    with pytest.raises(HubError, match=r"more than 5 points: ask for a shorter span"):
        seen(db, START, START + 30 * DAY_US, points=5)
    with pytest.raises(HubError, match="is none of raw, 1m"):
        seen(db, START, NOW, resolution="2m")
    with pytest.raises(HubError, match="must be after"):
        seen(db, NOW, NOW)
    with pytest.raises(HubError, match="1 to 10000"):
        seen(db, START, NOW, points=0)


def test_where_samples_went_minutes_are_given_and_then_hours(db: Database) -> None:
    store(db, minutes("a", np.arange(4320) / 7))
    roll(db, NOW + DAY_US)
    sweep = RetentionWorker(db, Retention(telemetry_days=1, minutes_days=2))
    sweep.run_once(NOW)
    while sweep.run_once(NOW).again:
        pass
    whole = [seen(db, NOW - age * DAY_US, NOW - age * DAY_US + HOUR_US).resolution for age in (1, 2, 3)]
    assert whole == ["raw", "1m", "1h"]


def test_text_is_shown_raw(db: Database) -> None:
    store(db, [("a", "x", START, 1, 1, None, "open", "good")])
    assert [row.text for row in seen(db, START, START + DAY_US).samples] == ["open"]


def test_an_hour_that_runs_is_in_it(db: Database) -> None:
    store(db, minutes("a", np.full(90, 2.0)))
    roll(db, START + 90 * MINUTE_US)
    assert seen(db, START, START + DAY_US, resolution="1h").buckets.count.tolist() == [60, 30]
    assert seen(db, START, START + DAY_US, resolution="1d").buckets.count.tolist() == [90]


def test_more_hours_that_came_late_than_one_answer_makes_are_told(db: Database) -> None:
    hours = HOURS + 40
    store(db, [("a", "x", START + n * HOUR_US, 1, n, 1.0, None, "good") for n in range(hours)])
    found = seen(db, START, START + hours * HOUR_US, resolution="1h")
    assert (found.waiting, int(found.buckets.count.sum())) == (40, HOURS)
    roll(db, START + 30 * DAY_US)
    found = seen(db, START, START + hours * HOUR_US, resolution="1h")
    assert (found.waiting, int(found.buckets.count.sum())) == (0, hours)


# -- top -------------------------------------------------------------------------------------------


VALUES = {f"d{n}": np.random.default_rng(5 + n).gamma(2 + n % 3, 10 + n, 4320) for n in range(6)}


def fill(db: Database) -> None:
    """Six devices with three days of minutes."""
    with db.write() as session:
        session.add_all(Device(id=device) for device in VALUES)
    for device, some in VALUES.items():
        store(db, minutes(device, some))


@pytest.fixture(scope="module")
def filled(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with databases.empty(tmp_path_factory.mktemp("filled"), server) as url:
        yield databases.filled(url, fill)


@pytest.fixture(scope="module")
def rolled(server: Any, filled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """All hours and days of them are rolled up; to be read only."""
    with databases.copied(filled, tmp_path_factory.mktemp("rolled"), server) as url:
        db = Database(url)
        roll(db, NOW + DAY_US)
        yield db
        db.close()


@pytest.fixture
def hot(server: Any, filled: str, tmp_path: Path) -> Iterator[Database]:
    """Nothing of them is rolled up."""
    with databases.copied(filled, tmp_path, server) as url:
        db = Database(url)
        yield db
        db.close()


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(
    ("first", "last_us"), [(0, 4320), (90, 4000), (1440, 2880), (30, 150), (200, 1300), (1400, 1500)]
)  # fmt: skip
def test_the_highest_are_those_that_the_samples_say(rolled: Database, first: int, last_us: int, share: float) -> None:
    start_us, end_us = START + first * MINUTE_US, START + last_us * MINUTE_US
    with rolled.read() as session:
        found = top_devices(session, devices_of(session, None), "x", start_us, end_us, share=share, k=3)
    assert found.exact == (end_us - start_us <= SHORT_US)
    low, high = (found.start_us - START) // MINUTE_US, (found.end_us - START) // MINUTE_US
    assert low <= first < last_us <= high < last_us + 60
    exact = {device: some[low:high] for device, some in VALUES.items()}
    assert len(found.ranks) == 3
    for rank in found.ranks:
        some = exact[rank.device]
        assert rank.count == len(some)
        assert abs((some < rank.value).mean() - share) <= (0.025 if share == 0.5 else 0.01), rank
    told = [rank.value for rank in found.ranks]
    assert told == sorted(told, reverse=True)
    best = sorted(exact, key=lambda device: -float(np.quantile(exact[device], share)))[:3]
    assert len(set(best) & {rank.device for rank in found.ranks}) >= 2


@pytest.mark.one_database
def test_days_that_are_not_made_yet_come_from_their_hours(hot: Database) -> None:
    roll(hot, START + 2 * DAY_US + 12 * HOUR_US + 5 * MINUTE_US)
    with hot.read() as session:
        assert session.get(RollupDue, ("d0", START + 2 * DAY_US + 23 * HOUR_US)) is not None
        found = top_devices(session, ["d0"], "x", START, NOW, share=0.5, k=1)
    assert found.ranks[0].count == 2 * 1440 + 12 * 60


def test_a_short_span_of_too_many_samples_is_refused(hot: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_hub.telemetry.rollups.top_k.SAMPLES", 100)
    with hot.read() as session, pytest.raises(HubError, match="more than 100 samples; ask for more than two hours"):
        top_devices(session, ["d0", "d1"], "x", START, START + HOUR_US, share=0.5, k=1)
