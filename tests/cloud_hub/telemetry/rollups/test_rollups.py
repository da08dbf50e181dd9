"""Rollups are what all samples that ever came say: late, replayed, killed in between, and after the samples went."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from sqlmodel import select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import RetentionStart, Rollup, RollupDue, SketchRow, TelemetrySample
from cloud_hub.runtime import items
from cloud_hub.settings import Retention
from cloud_hub.telemetry import retention, samples
from cloud_hub.telemetry.retention import RetentionWorker
from cloud_hub.telemetry.rollups import matrices
from cloud_hub.telemetry.rollups import worker as roller
from cloud_hub.telemetry.rollups.core.sketches import Sketch
from cloud_hub.telemetry.rollups.ranges import RESOLUTIONS, query_range
from cloud_hub.telemetry.rollups.store import DAY, HOUR, MINUTE, DeviceRollups
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.telemetry.samples import SampleRow
from shared.durations import DAY_US, HOUR_US, MINUTE_US

NOW = 1_800_000_000_000_000 // DAY_US * DAY_US
KEEP = Retention(telemetry_days=2, minutes_days=4, hours_days=6)
Point = tuple[str, str, int, float]
"""device, metric, t_us, value"""


class Killed(BaseException):
    """kill -9."""


class World:
    """A hub's store with what it was told beside it."""

    def __init__(self, db: Database, name: str) -> None:
        self.db, self.name = db, name
        self.now_us = NOW
        self.seq = itertools.count(1)
        self.told: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        self.roller = RollupWorker(db)

    def tell(self, points: list[Point]) -> None:
        rows: list[SampleRow] = [
            (f"{self.name}-{device}", metric, t_us, 1, next(self.seq), value, None, "good")
            for device, metric, t_us, value in points
        ]
        with self.db.write(*{row[0] for row in rows}) as session:
            samples.store_samples(session, rows)
        for row in rows:
            self.told[row[0], row[1]].append((row[2], row[5] or 0.0))

    def roll(self) -> None:
        while self.roller.run_once(self.now_us).again:
            pass

    def sweep(self, days: Retention = KEEP) -> None:
        sweep = RetentionWorker(self.db, days)
        sweep.run_once(self.now_us)
        while sweep.run_once(self.now_us).again:
            pass

    def end(self) -> None:
        """Long enough for every hour to be over."""
        self.now_us += 2 * DAY_US
        self.roll()
        self.roll()

    def unseen(self) -> str:
        """What a person who asks at this moment is told, and is not as told; '' when all is."""
        with self.db.read() as session:
            for (device, metric), points in self.told.items():
                row = session.get(RetentionStart, (device, metric)) or RetentionStart(device=device, metric=metric)
                for name, since_us in (("1d", 0), ("6h", row.hour_us), ("1h", row.hour_us), ("1m", row.minute_us)):
                    start_us = max(since_us, NOW - (20 if name != "1m" else 4) * DAY_US)
                    end_us = NOW + (5 if name == "1m" else 20) * DAY_US
                    if name == "1m":
                        start_us = max(start_us, end_us - 6 * DAY_US)
                    seen = query_range(session, device, metric, start_us, end_us, points=1, resolution=name)
                    columns = (seen.buckets.slot, seen.buckets.count, seen.buckets.low, seen.buckets.high,
                               seen.buckets.mean)  # fmt: skip
                    step = RESOLUTIONS[name]
                    found = {
                        slot * step * 1_000_000: rest
                        for slot, *rest in zip(*(c.tolist() for c in columns), strict=True)
                    }
                    wanted = {t: v for t, v in _wanted(points, step, start_us).items() if t < end_us}
                    if set(wanted) != set(found) or not all(_near(found[t], wanted[t]) for t in wanted):
                        return f"{device} {metric} {name} from {start_us}: {found} is not {wanted}"
        return ""

    def wrong(self) -> str:
        """What is not as told, in words; '' when all is."""
        with self.db.read() as session:
            for (device, metric), points in self.told.items():
                row = session.get(RetentionStart, (device, metric)) or RetentionStart(device=device, metric=metric)
                for step, since_us in ((DAY, 0), (HOUR, row.hour_us), (MINUTE, max(row.minute_us, NOW - 5 * DAY_US))):
                    wanted = _wanted(points, step, since_us)
                    found = _found(session, device, metric, step, since_us)
                    if set(wanted) != set(found) or not all(_near(found[t], wanted[t]) for t in wanted):
                        return f"{device} {metric} by {step} s from {since_us}: {found} is not {wanted}"
                for step, since_us in ((DAY, 0), (HOUR, max(row.sketch_us, row.hour_us))):
                    packed = DeviceRollups(session, device).sketches(step, [metric], since_us, NOW + 20 * DAY_US)
                    counts = {t_us: Sketch(one).count for (_, t_us), one in packed.items()}
                    if counts != {t: want[0] for t, want in _wanted(points, step, since_us).items()}:
                        return f"{device} {metric}: sketches by {step} s from {since_us} are of {counts}"
        return ""


def _wanted(points: list[tuple[int, float]], step: int, since_us: int) -> dict[int, tuple[float, ...]]:
    buckets: dict[int, list[float]] = defaultdict(list)
    for t_us, value in points:
        if t_us >= since_us:
            buckets[t_us // (step * 1_000_000) * step * 1_000_000].append(value)
    return {t: (len(v), min(v), max(v), math.fsum(v) / len(v)) for t, v in buckets.items()}


def _found(session: Any, device: str, metric: str, step: int, since_us: int) -> dict[int, tuple[float, ...]]:
    start_us = max(since_us, NOW - 20 * DAY_US)
    (page,) = matrices.columns(session, [(device, metric)], start_us, NOW + 20 * DAY_US, step)
    columns = zip(
        page.t_us.tolist(), *(m[0].tolist() for m in (page.count, page.low, page.high, page.mean)), strict=True
    )
    return {t: rest for t, *rest in columns if rest[0]}  # type: ignore[misc]


def _near(found: Any, wanted: tuple[float, ...]) -> bool:
    return list(found[:3]) == list(wanted[:3]) and math.isclose(found[3], wanted[3], rel_tol=1e-12, abs_tol=1e-12)


# -- worlds ----------------------------------------------------------------------------------------

ages = st.one_of(st.integers(0, 3 * 60), st.integers(0, 3 * 24 * 60), st.integers(0, 10 * 24 * 60))
points = st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y"]), ages, st.integers(-9, 9))
steps = st.one_of(
    st.tuples(st.just("tell"), st.lists(points, min_size=1, max_size=6)),
    st.tuples(st.sampled_from(["roll", "sweep", "killed", "raced"]), points),
    st.tuples(st.just("later"), st.integers(1, 30)),
)
walks = st.lists(steps, min_size=1, max_size=12)


def play(world: World, walk: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """`killed` dies inside the transaction of the roller, after all was written; in `raced` a sample comes between what
    the roller reads and what it writes."""
    for verb, what in walk:
        if verb == "tell":
            world.tell([(d, m, world.now_us - age * MINUTE_US, float(v)) for d, m, age, v in what])
        elif verb == "later":
            world.now_us += what * HOUR_US
        elif verb == "killed":
            _killed(world, monkeypatch)
        elif verb == "raced":
            _raced(world, what, monkeypatch)
        else:
            getattr(world, verb)()


def _killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = roller.roll_up

    def dies(*given: Any, **more: Any) -> None:
        real(*given, **more)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(roller, "roll_up", dies)
        try:
            world.roller.run_once(world.now_us)
        except Killed:
            world.roller = RollupWorker(world.db)


def _raced(world: World, what: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, metric, age, value = what
    real, left = roller.hour, [1]

    def hour(session: Any, device: str, hour_us: int, *only: Any) -> Any:
        found = real(session, device, hour_us, *only)
        if left:
            left.pop()
            world.tell([(device.rpartition("-")[2], metric, hour_us + age % 60 * MINUTE_US, float(value))])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(roller, "hour", hour)
        world.roller.run_once(world.now_us)


AGO = 3 * 24 * 60
"""Minutes: so old are samples that go by `KEEP`, and minutes that do not."""
NO = ("a", "x", 0, 0)
OLD_AND_NEW = ("tell", [("a", "x", 0, 1), ("a", "x", AGO, 2)])
LATE_TWICE = [
    OLD_AND_NEW, ("later", 3), ("roll", NO), ("sweep", NO),
    ("tell", [("a", "x", AGO + 179, 3)]), ("roll", NO), ("tell", [("a", "x", AGO + 178, 4)]), ("roll", NO),
]  # fmt: skip
"""Samples for an hour whose samples went."""
LATER_STILL = [
    ("tell", [("a", "x", 0, 1), ("a", "x", 5 * 24 * 60, 2)]), ("later", 3), ("roll", NO), ("sweep", NO),
    ("tell", [("a", "x", 5 * 24 * 60 + 179, 3)]), ("roll", NO), ("tell", [("a", "x", 5 * 24 * 60 + 178, 4)]),
]  # fmt: skip
"""For a day whose minutes and sketches of hours went too."""
RACED = [OLD_AND_NEW, ("later", 3), ("raced", ("a", "x", 7, 5))]
UNROLLED = [OLD_AND_NEW, ("sweep", NO)]

names = itertools.count()


def check(db: Database, monkeypatch: pytest.MonkeyPatch, *phases: Phase, walk: list[Any] = UNROLLED) -> None:
    monkeypatch.setattr(retention, "ROWS", 3)

    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], phases=phases)
    @example(walk)
    @given(walks)
    def run(walk: list[Any]) -> None:
        world = World(db, f"w{next(names)}")
        play(world, walk, monkeypatch)
        assert world.unseen() == ""
        world.end()
        assert world.wrong() == ""
        assert world.unseen() == ""
        with db.write() as session:  # each world has the hub to itself
            for table in (TelemetrySample, RollupDue, Rollup, SketchRow, RetentionStart):
                session.execute(delete(table))

    run()


@pytest.mark.one_database
@pytest.mark.parametrize("together", [500, 1], ids=["whole hours", "hours in parts"])
def test_rollups_are_what_all_samples_say(db: Database, monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(roller, "METRICS", together)
    check(db, monkeypatch, Phase.explicit, Phase.generate)


@pytest.mark.parametrize("together", [500, 1], ids=["whole hours", "hours in parts"])
@pytest.mark.parametrize("walk", [LATE_TWICE, LATER_STILL, RACED, UNROLLED])
def test_walks_that_seeded_bugs_do_not_survive(
    db: Database, monkeypatch: pytest.MonkeyPatch, walk: list[Any], together: int
) -> None:
    monkeypatch.setattr(roller, "METRICS", together)
    check(db, monkeypatch, Phase.explicit, walk=walk)


def test_an_hour_of_very_many_metrics_is_many_transactions_with_others_in_between(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that named 300,000 metrics in an hour held the hub's only write lock for ten minutes, and 3.5 GB."""
    monkeypatch.setattr(roller, "METRICS", 10)
    monkeypatch.setattr(roller, "MOST_METRICS", 50)
    world, real, done = World(db, "many"), roller.roll_up, list[tuple[str, int]]()

    def counting(session: Any, device: str, day_us: int, hours: Any, now_us: int, **more: Any) -> None:
        done.append((device, max(map(len, hours.values()))))
        real(session, device, day_us, hours, now_us, **more)

    monkeypatch.setattr(roller, "roll_up", counting)
    world.tell([("a", f"m{number:03}", NOW, 1.0) for number in range(60)])
    world.tell([("b", "x", NOW, 1.0)])
    world.now_us += 3 * HOUR_US
    world.roll()
    assert [count for device, count in done if device == "many-a"] == [10] * 5
    assert done.index(("many-b", 1)) < 2
    with db.read() as session:
        assert list(session.exec(select(RollupDue.device).where(RollupDue.t_us == NOW))) == []


def test_a_part_that_fails_is_kept_with_its_error_and_costs_no_other(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roller, "METRICS", 1)
    world, real = World(db, "bad"), roller.hour

    def fails(session: Any, device: str, hour_us: int, *only: Any) -> Any:
        if only == (["y"],):
            raise RuntimeError("cannot be read")
        return real(session, device, hour_us, *only)

    monkeypatch.setattr(roller, "hour", fails)
    world.tell([("a", "x", NOW, 1.0), ("a", "y", NOW, 1.0), ("b", "x", NOW, 1.0)])
    world.now_us += 3 * HOUR_US
    world.roll()
    with db.read() as session:
        assert list(session.exec(select(RollupDue.device).where(RollupDue.t_us == NOW))) == ["bad-a"]
        assert [row.item for row in items.list_failed(session, "rollups", parked=False, limit=9)] == [f"bad-a/{NOW}"]


def _marks_nothing_old(rows: Any) -> list[tuple[str, int]]:
    newest = max(row[2] for row in rows) // HOUR_US * HOUR_US
    return sorted({(row[0], newest) for row in rows})


def _takes_whatever_changed(session: Any, due: RollupDue) -> bool:
    session.execute(delete(RollupDue).where(RollupDue.device == due.device, RollupDue.t_us == due.t_us))
    return True


def _waits_for_nobody(_session: Any, _device: str, before_us: int) -> int:
    return before_us


@pytest.mark.parametrize(
    ("room", "name", "bug", "walk"),
    [
        (samples, "hours_of", _marks_nothing_old, [OLD_AND_NEW]),
        (roller, "_take", _takes_whatever_changed, RACED),
        (roller, "_forget", lambda *_: None, LATE_TWICE),
        (roller, "_added", lambda _rows, _metric, _hour_us, made: (made.minutes, made.sketch), LATE_TWICE),
        (roller, "_onto_sketch", lambda *_: None, LATER_STILL),
        (retention, "_rolled_up_before", _waits_for_nobody, UNROLLED),
        (retention, "_record_start", lambda *_: None, LATE_TWICE),
    ],
    ids=["late hours are not due", "a change meanwhile is forgotten", "what was added stays", "late minutes replace",
             "sketches forget what comes late",
         "the sweep does not wait", "the sweep keeps no note"],
)  # fmt: skip
def test_the_worlds_catch_seeded_bugs(
    db: Database, monkeypatch: pytest.MonkeyPatch, room: Any, name: str, bug: Any, walk: list[Any]
) -> None:
    monkeypatch.setattr(room, name, bug)
    with pytest.raises(AssertionError):
        check(db, monkeypatch, Phase.explicit, walk=walk)
