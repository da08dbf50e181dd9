"""Series as matrices: in the order asked, on a regular grid, with gaps where there was nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from simulators import databases

from cloud_hub.database.sessions import Database
from cloud_hub.telemetry import samples
from cloud_hub.telemetry.rollups import matrices
from cloud_hub.telemetry.rollups.worker import RollupWorker
from shared.durations import DAY_US, HOUR_US, MINUTE_US

START = 1_800_000_000_000_000 // DAY_US * DAY_US


@pytest.fixture(scope="module")
def full(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The database of `fill`; to be read only."""
    with databases.empty(tmp_path_factory.mktemp("full"), server) as url:
        db = Database(url)
        fill(db)
        yield db
        db.close()


def fill(db: Database) -> None:
    """Two devices of two metrics for 36 hours, a sample every 20 s: its value is its number in the day."""
    for device in ("a", "b"):
        rows: list[samples.SampleRow] = [
            (device, metric, START + n * 20_000_000, 1, n * 2 + k, float(n % 4320 + 10_000 * k), None, "good")
            for n in range(6480)
            for k, metric in enumerate(["x", "y"])
        ]
        with db.write(device) as session:
            samples.store_samples(session, rows)
    roller = RollupWorker(db)
    while roller.run_once(START + 5 * DAY_US).again:
        pass


def page(db: Database, series: list[tuple[str, str]], start_us: int, end_us: int, step: int) -> matrices.Page:
    with db.read() as session:
        (found,) = matrices.columns(session, series, start_us, end_us, step)
    return found


@pytest.mark.parametrize("step", [60, 300, 3600, 7200, 86400])
def test_each_bucket_holds_its_samples(full: Database, step: int) -> None:
    found = page(full, [("b", "y"), ("nobody", "x"), ("a", "x")], START, START + 2 * DAY_US, step)
    assert found.t_us.tolist() == list(range(START, START + 2 * DAY_US, step * 1_000_000))
    per = step // 20
    whole = 6480 // per
    values = np.arange(6480) % 4320
    for row, offset in ((0, 10_000), (2, 0)):
        wanted = (values[: whole * per] + offset).reshape(whole, per)
        assert found.count[row, :whole].tolist() == [per] * whole
        np.testing.assert_allclose(found.mean[row, :whole], wanted.mean(axis=1), rtol=1e-12)
        assert (found.low[row, :whole] == wanted.min(axis=1)).all()
        assert (found.high[row, :whole] == wanted.max(axis=1)).all()
    assert found.count[1].sum() == 0
    assert np.isnan(found.mean[1]).all()


def test_the_span_is_rounded_outwards_and_what_lies_beyond_is_left_out(full: Database) -> None:
    found = page(full, [("a", "x")], START + HOUR_US + 90_000_000, START + 3 * HOUR_US - MINUTE_US - 1, 300)
    assert (found.t_us[0], found.t_us[-1]) == (START + HOUR_US, START + 3 * HOUR_US - 5 * MINUTE_US)
    assert found.count.tolist() == [[15] * 24]


def test_pages_are_all_of_it_whatever_their_size(full: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    series = [(device, metric) for device in "ab" for metric in "xy"] * 3
    whole = page(full, series, START, START + 2 * DAY_US, 300)
    monkeypatch.setattr(matrices, "CELLS", 5 * len(whole.t_us))
    monkeypatch.setattr(matrices, "ROWS", 7)
    with full.read() as session:
        pages = list(matrices.columns(session, series, START, START + 2 * DAY_US, 300))
    assert [one.first for one in pages] == [0, 5, 10]
    np.testing.assert_array_equal(np.concatenate([one.mean for one in pages]), whole.mean)
    np.testing.assert_array_equal(np.concatenate([one.count for one in pages]), whole.count)


def test_samples_themselves(full: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_hub.telemetry.samples.PAGE", 7)
    with full.read() as session:
        t_us, values = matrices.raw(session, "a", "y", START + HOUR_US, START + 2 * HOUR_US)
        none = matrices.raw(session, "a", "z", START, START + DAY_US)
    assert t_us.tolist() == list(range(START + HOUR_US, START + 2 * HOUR_US, 20_000_000))
    assert values.tolist() == [float(n + 10_000) for n in range(180, 360)]
    assert (len(none[0]), len(none[1])) == (0, 0)


@pytest.mark.parametrize(
    ("span", "step", "reason"),
    [((0, HOUR_US), 61, "no rollups of 61 s"), ((0, HOUR_US), 0, "no rollups"), ((0, HOUR_US), 172800, "no rollups"),
     ((HOUR_US, HOUR_US), 60, "must end after its start"), ((0, 1 << 62), 60, "at most 1000000 points")],
)  # fmt: skip
def test_what_cannot_be_read_is_told(full: Database, span: tuple[int, int], step: int, reason: str) -> None:
    with full.read() as session, pytest.raises(ValueError, match=reason):
        next(matrices.columns(session, [("a", "x")], *span, step))


def test_texts_and_bad_samples_do_not_count(db: Database) -> None:
    rows: list[Any] = [
        ("a", "x", START, 1, 1, None, "open", "good"),
        ("a", "x", START + 1, 1, 2, None, None, "bad"),
        ("a", "x", START + 2, 1, 3, 9.0, None, "bad"),
        ("a", "x", START + 3, 1, 4, 5.0, None, "uncertain"),
    ]
    with db.write("a") as session:
        samples.store_samples(session, rows)
    roller = RollupWorker(db)
    while roller.run_once(START + DAY_US).again:
        pass
    found = page(db, [("a", "x")], START, START + HOUR_US, 3600)
    assert (found.count.tolist(), found.mean.tolist()) == ([[1]], [[5.0]])
