"""The benchmark of thresholds from end to end on a tiny file, and its figures of cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import threshold_speed, thresholds


def tiny(file: Path, *, windows: bool) -> Path:
    """Two series of ten days at another period than NAB's, one missing value each, a jump in a window."""
    dice = np.random.default_rng(1)
    times = np.arange(960) * 900_000_000
    columns: dict[str, Any] = {"series": [], "timestamp": [], "value": [], "label": [], "window": []}
    for name in ("some/a", "other"):
        values = 10 + 3 * np.sin(2 * np.pi * np.arange(960) / 96) + dice.normal(size=960) / 5
        inside = (np.arange(960) >= 700) & (np.arange(960) < 740) & windows
        values[inside] += 20
        values[5] = np.nan
        columns["series"] += [name] * 960
        columns["timestamp"] += times.tolist()
        columns["value"] += values.tolist()
        columns["label"] += inside.astype(int).tolist()
        columns["window"] += np.where(inside, 0, -1).tolist()
    columns["timestamp"] = pa.array(columns["timestamp"], pa.timestamp("us"))
    pq.write_table(pa.table(columns), file)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("windows", [pytest.param(True, marks=pytest.mark.nightly), False])
def test_all_methods_give_all_figures_on_a_tiny_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: bool
) -> None:
    file, told = tiny(tmp_path / "tiny.parquet", windows=windows), tmp_path / "found.json"
    monkeypatch.setattr(thresholds, "peers", list)
    given = ["thresholds", "--nab", str(file), "--kpi", str(file), "--json", str(told), "--no-speed"]
    monkeypatch.setattr(sys, "argv", given)
    thresholds.main()
    rows = {
        (row["dataset"], row["method"], row["metric"]): row["value"] for row in json.loads(told.read_text())["rows"]
    }
    methods = {method for _, method, _ in rows} - {"(the file)"}
    assert {"Tidegate score", "Tidegate band, z", "static 3-sigma", "DSPOT"} <= methods
    for method in methods:
        score = rows["nab", method, "standard: two-fold"]
        assert (score <= 100) if windows else np.isnan(score)
        assert rows["nab", method, "usual: false alarms"] >= 0
    if windows:
        assert rows["nab", "static 3-sigma", "standard: tuned on all"] > 80
        assert rows["kpi", "static 3-sigma", "best F1"] > 0.9


def test_a_file_that_cannot_be_used_ends_the_program_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "no.parquet"
    pq.write_table(pa.table({"series": ["a"]}), file)
    monkeypatch.setattr(sys, "argv", ["thresholds", "--nab", str(file), "--no-speed"])
    with pytest.raises(SystemExit, match=r"no\.parquet lacks the column timestamp, value"):
        thresholds.main()


def test_cost_is_told_for_every_model_and_the_device() -> None:
    rows = threshold_speed.rows(50, seed=1, steps=4, warm=2)
    assert {row.method for row in rows} == {
        "EWMA band", "Tidegate band", "Tidegate score", "Tidegate score without numba",
        "bare limit of the score: its bytes read and written back", "judge, 100 metrics at 1 s",
    }  # fmt: skip
    assert all(row.value > 0 for row in rows)
