"""Tails of daily peaks: common to all, corrected by what a group has shown of its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.thresholds.peers import tails as group_tails
from cloud_hub.thresholds.peers.tails import fit_tails

GROUP = np.repeat(np.arange(10), 20)
DAYS = 14
WILD = 3
Peaks = npt.NDArray[np.float32]


def peaks(seed: int, days: int = DAYS) -> Peaks:
    """[D, 1, 1, K]: power laws of slope 8, of group WILD of slope 3."""
    dice = np.random.default_rng(seed)
    slope = np.where(GROUP == WILD, 3.0, 8.0)
    return (0.7 * (1 + dice.pareto(slope, (days, 1, 1, len(GROUP))))).astype(np.float32)


def evidence(learned: Peaks, seen: Peaks) -> npt.NDArray[np.float64]:
    base, slope = fit_tails(learned, GROUP, 0.1, 0.01)
    return np.asarray(base[..., GROUP] + slope[..., GROUP] * np.log10(seen))


def called(learned: Peaks, seen: Peaks) -> tuple[float, float]:
    """Shares of days with evidence 2 or more: of the wild group, of all others."""
    found = evidence(learned, seen)[:, 0, 0] >= 2
    return float(found[:, GROUP == WILD].mean()), float(found[:, GROUP != WILD].mean())


def wild_is_called_as_seldom(seed: int) -> bool:
    """A day in a hundred is asked for; by the common tail it is one in eleven. 280 peaks are few: one in twenty."""
    return bool(np.mean([called(peaks(seed + k), peaks(seed + k + 1, 200))[0] for k in (0, 2, 4)]) < 0.05)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_group_that_scatters_wider_is_not_called_much_oftener_than_was_asked(seed: int) -> None:
    assert wild_is_called_as_seldom(seed)


def test_that_property_fails_where_a_groups_own_peaks_never_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_tails, "TRUST", 1e9)
    assert not any(wild_is_called_as_seldom(seed) for seed in range(5))


def test_the_other_groups_are_called_at_most_as_often_as_was_asked() -> None:
    shares = [called(peaks(seed), peaks(seed + 1, 200))[1] for seed in range(5)]
    assert 0.003 < np.mean(shares) < 0.01


def test_where_all_are_one_group_the_tail_goes_through_both_quantiles() -> None:
    learned = peaks(4)
    base, slope = fit_tails(learned, np.zeros(len(GROUP), dtype=np.int64), 0.1, 0.01)
    near, far = np.quantile(learned, [0.9, 0.99])
    assert [float(base[0, 0, 0] + slope[0, 0, 0] * np.log10(at)) for at in (near, far)] == pytest.approx(
        [1.0, 2.0], 1e-5
    )


def test_a_group_without_peaks_has_the_common_tail() -> None:
    learned = peaks(5)
    learned[..., GROUP == 7] = np.nan
    base, slope = fit_tails(learned, GROUP, 0.1, 0.01)
    known = learned[..., GROUP != 7]
    common = fit_tails(known, np.zeros(known.shape[-1], dtype=np.int64), 0.1, 0.01)
    assert (base[0, 0, 7], slope[0, 0, 7]) == pytest.approx((common[0][0, 0, 0], common[1][0, 0, 0]))


def test_the_days_of_one_fault_hardly_deafen_its_group() -> None:
    learned = peaks(6)
    before = evidence(learned, np.full_like(learned, 2.0))[0, 0, 0, 0]
    learned[:3, ..., 0] = 1e6
    assert evidence(learned, np.full_like(learned, 2.0))[0, 0, 0, 0] > 0.75 * before
