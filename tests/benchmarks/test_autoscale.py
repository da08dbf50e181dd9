"""The benchmark of autoscaling from end to end on a short world, and its peers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import autoscale, autoscale_peers
from benchmarks.autoscale_traces import KINDS, read, synthetic
from cloud_hub.autoscale.core.simulate import World, replay


@pytest.mark.slow
def test_all_policies_give_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscale, "synthetic", lambda kind, seed: synthetic(kind, seed, days=3))
    monkeypatch.setattr(autoscale, "WORTHS", (10.0, 100.0))
    monkeypatch.setattr(autoscale, "PAIRS", ((0.7, 40.0),))
    monkeypatch.setattr(autoscale_peers, "TARGETS", (1.0, 0.9, 0.7, 0.5))
    out = tmp_path / "out.json"
    monkeypatch.setattr(
        "sys.argv",
        ["x", "--synthetic", "noisy", "--json", str(out), "--plots", str(tmp_path), "--no-speed"],
    )
    autoscale.main()
    rows = json.loads(out.read_text("utf-8"))["rows"]
    methods = {row["method"].split(":")[0] for row in rows}
    assert {"static", "HPA", "PHPA linear (re-implemented)", "Tidegate, always", "Tidegate, auto"} <= methods
    assert (tmp_path / "noisy.png").read_bytes()[:4] == b"\x89PNG"


def test_requests_are_summed_per_minute(tmp_path: Path) -> None:
    file = tmp_path / "llm.csv"
    rows = [f"2023-11-16 18:{m:02}:{s:02}.9799600,{100 + m},10" for m in range(20) for s in (3, 30)]
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows), "utf-8")
    found = read(file)
    assert found.boot_s == 120.0
    assert found.rate[:2].tolist() == [220 / 60, 222 / 60]
    assert found.unscored == 19 // 4


def test_sums_are_interpolated_per_minute(tmp_path: Path) -> None:
    file = tmp_path / "sums.csv"
    rows = [f"2026-11-01 00:{m:02}:00,{300 * (1 + m // 5)}" for m in range(0, 60, 5)]
    file.write_text("timestamp,value\n" + "\n".join(rows), "utf-8")
    assert read(file).rate[:6].tolist() == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.8, 2.0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_synthetic_world_follows_its_seed(kind: str) -> None:
    one, same, other = (synthetic(kind, seed, days=3) for seed in (1, 1, 2))
    assert np.array_equal(one.rate, same.rate)
    assert not np.array_equal(one.rate, other.rate)


def test_a_rise_that_comes_every_day_is_met_by_the_seasonal_peers() -> None:
    minutes = np.arange(5 * 1440)
    load = np.where(minutes % 1440 < 720, 10.0, 60.0)
    world = World(rate=load, per_instance=10.0, unscored=3 * 1440)
    plain = replay(world, autoscale_peers.Hpa(world, 0.9)).violation_share
    for scaler in (
        autoscale_peers.SeasonalMedian(world, 0.9),
        autoscale_peers.PhpaHoltWinters(world, 0.9, 0.2, 0.01, 0.2),
    ):
        assert replay(world, scaler).violation_share < 0.7 * plain


def test_the_linear_peers_follow_a_rise() -> None:
    load = np.linspace(10, 100, 200)
    world = World(rate=load, per_instance=10.0)
    plain = replay(world, autoscale_peers.Hpa(world, 0.9)).violation_share
    for scaler in (autoscale_peers.Trend(world, 0.9), autoscale_peers.PhpaLinear(world, 0.9)):
        assert replay(world, scaler).violation_share <= plain
