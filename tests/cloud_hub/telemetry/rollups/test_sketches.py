"""Sketches: equal samples give equal bytes, and what is merged is near what was exact."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.telemetry.rollups.core.sketches import Sketch, merge_sketches


def sketch(values: np.ndarray) -> Sketch:
    found = Sketch()
    found.add(values)
    return found


@pytest.mark.parametrize("size", [1, 7, 300, 5000])
def test_equal_samples_give_equal_bytes(size: int) -> None:
    values = np.random.default_rng(size).lognormal(size=size)
    assert sketch(values).pack() == sketch(values).pack()
    parts = [sketch(part).pack() for part in np.array_split(values, min(size, 24))]
    assert merge_sketches(parts).pack() == merge_sketches(parts).pack()


@pytest.mark.parametrize(("share", "near"), [(0.01, 2e-3), (0.5, 2e-2), (0.9, 1e-2), (0.99, 2e-3), (0.999, 5e-4)])
def test_a_day_of_hours_is_near_the_rank_and_nearest_at_the_ends(share: float, near: float) -> None:
    hours = np.random.default_rng(3).lognormal(size=(24, 3600))
    found = merge_sketches(sketch(hour).pack() for hour in hours).quantile(share)
    assert abs(float((hours.ravel() < found).mean()) - share) < near


def test_values_beyond_single_precision_are_kept_at_its_end() -> None:
    assert sketch(np.array([1e300, 1.0, -1e300])).quantile(0.5) == 1.0


def test_of_nothing_there_is_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        Sketch().quantile(0.5)
