import math

import pytest

from cloud_hub.thresholds.budget import threshold


def test_a_budget_of_two_pages_a_shift_is_one_in_so_many_samples() -> None:
    s = threshold(2.0, 1000, 1440.0)
    assert 10**-s * 1000 * 1440 / 2 == pytest.approx(2.0)


def test_a_budget_above_all_samples_pages_at_anything() -> None:
    assert threshold(1e9, 1, 24.0) == 0.0


@pytest.mark.parametrize(
    "numbers", [(0.0, 1, 1.0), (1.0, 0, 1.0), (1.0, 1, 0.0), (math.nan, 1, 1.0), (1.0, 1, math.inf)]
)
def test_a_budget_of_nothing_or_of_no_number_is_refused(numbers: tuple[float, int, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        threshold(*numbers)
