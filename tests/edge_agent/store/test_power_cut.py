"""The agent's outbox and the power: whatever `accept` returned for is there, wherever it was cut off."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from simulators.power import cut, device

CUTS = 100
"""Of the nightly run. n cuts without loss: the chance of one is below 3/n with 95 % confidence (rule of three)."""


@pytest.mark.slow
def test_a_killed_writer_has_everything_that_it_accepted(tmp_path: Path) -> None:
    """Files copied while it stands still: what the kernel has counts, so this proves a killed process only."""
    rng, accepted = random.Random(7), 0
    for number in range(6):
        folder = tmp_path / f"w{number}"
        folder.mkdir()
        promised, lost = cut(folder, rng, tmp_path / f"c{number}", "FULL")
        assert lost == 0
        accepted += promised
    assert accepted > 50


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_no_power_cut_loses_what_was_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, accepted, lost, cuts = random.Random(11), 0, 0, 0
    with device(tmp_path) as (image, place):
        for number in range(CUTS):
            (place / f"{number}").mkdir()
            copy = tmp_path / "copy.img"
            promised, gone = cut(place / f"{number}", rng, copy, "FULL", image)
            accepted, lost, cuts = accepted + promised, lost + gone, cuts + (promised > 0)
            _clear(place / f"{number}")
    with capsys.disabled():
        print(f"\n{cuts} power cuts, {accepted} accepted, {lost} lost: below {3 / cuts:.3f} a cut with 95 % confidence")
    assert (lost, cuts > CUTS // 2) == (0, True)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_cuts_would_see_a_store_that_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    """The same with synchronous=NORMAL: rows that were accepted are gone."""
    rng, lost = random.Random(13), 0
    with device(tmp_path) as (image, place):
        for number in range(10):
            (place / f"{number}").mkdir()
            lost += cut(place / f"{number}", rng, tmp_path / "copy.img", "NORMAL", image)[1]
            _clear(place / f"{number}")
    assert lost > 0


def _clear(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
