"""Buckets: whatever the grouping they come out as if made from all samples at once, and packed they are the same."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cloud_hub.telemetry.rollups.core import buckets
from cloud_hub.telemetry.rollups.core.buckets import (
    Buckets,
    concat,
    merge_neighbours,
    of_samples,
    pack,
    unpack,
    unpack_all,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
samples = st.lists(st.tuples(st.integers(0, 59), finite), max_size=80)


def made(points: list[tuple[int, float]]) -> Buckets:
    ordered = sorted(points, key=lambda point: point[0])
    return of_samples(np.array([p[0] for p in ordered], np.int64), np.array([p[1] for p in ordered], float))


def plain(found: Buckets) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in zip(*(getattr(found, name).tolist() for name in Buckets.__slots__), strict=True)]


def expected(points: list[tuple[int, float]]) -> list[tuple[Any, ...]]:
    """By arithmetic without rounding."""
    rows = []
    for slot in sorted({point[0] for point in points}):
        values = [point[1] for point in points if point[0] == slot]
        mean = float(sum(map(Fraction, values)) / len(values))
        rows.append((slot, len(values), min(values), max(values), mean))
    return rows


def same(found: Buckets, points: list[tuple[int, float]]) -> bool:
    """Counts, lowest and highest exactly; the mean to rounding of the largest value in it."""
    wanted = expected(points)
    return [row[:4] for row in plain(found)] == [row[:4] for row in wanted] and all(
        abs(got[4] - want[4]) <= 1e-13 * max(abs(want[2]), abs(want[3])) + 5e-324 * want[1]
        for got, want in zip(plain(found), wanted, strict=True)
    )


@given(samples)
def test_samples_come_to_what_arithmetic_says(points: list[tuple[int, float]]) -> None:
    assert same(made(points), points)


def joined_well(*phases: Phase) -> None:
    @settings(phases=phases)
    @given(st.lists(samples, min_size=1, max_size=5))
    def run(parts: list[list[tuple[int, float]]]) -> None:
        assert same(concat([made(part) for part in parts]), [point for part in parts for point in part])

    run()


def test_parts_joined_are_as_all_at_once() -> None:
    joined_well(Phase.generate, Phase.shrink)


def test_the_property_catches_means_that_are_not_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    def unweighted(slot: Any, count: Any, low: Any, high: Any, mean: Any) -> Buckets:
        found = merge_neighbours(slot, count, low, high, mean)
        return Buckets(
            found.slot, found.count, found.low, found.high, merge_neighbours(slot, count * 0 + 1, low, high, mean).mean
        )

    monkeypatch.setattr(buckets, "merge_neighbours", unweighted)
    with pytest.raises(AssertionError):
        joined_well(Phase.generate)


@given(samples)
def test_minutes_into_an_hour(points: list[tuple[int, float]]) -> None:
    assert same(made(points).coarsen(60), [(0, value) for _, value in points])


@given(st.lists(samples.filter(bool), min_size=1, max_size=6))
def test_packed_and_unpacked_they_are_the_same(parts: list[list[tuple[int, float]]]) -> None:
    whole = [made(part) for part in parts]
    assert [plain(unpack(pack(one))) for one in whole] == [plain(one) for one in whole]
    row, found = unpack_all([pack(one) for one in whole])
    for number, one in enumerate(whole):
        assert plain(found.part(row == number)) == plain(one)


def test_the_largest_values_have_a_mean() -> None:
    (row,) = plain(made([(0, 1.7e308), (0, 1.7e308), (0, 1.6e308)]))
    assert row[4] == pytest.approx(1.6666666666666667e308)


def test_one_sample_a_minute_takes_eight_bytes_each() -> None:
    assert len(pack(made([(slot, 1.5) for slot in range(60)]))) == 8 + 60 * 8
    assert len(pack(made([(slot, 1.5) for slot in range(60)] * 2))) == 8 + 60 * 28


def test_a_newer_form_is_refused() -> None:
    with pytest.raises(ValueError, match="newer format"):
        unpack(b"\x01\0\0\0\0\0\0\x10" + bytes(8))
