"""`tidegate-hub autoscale simulate`: results, a picture, and errors that name place and cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_hub import __main__ as hub
from shared.errors import EXIT_CONFIG

POLICIES = """
policies:
  reactive:
    signals: [{name: requests, per_instance: 0.05, unit: 1/s}]
    maximum: 40
    prediction: {mode: never}
  predictive:
    signals: [{name: requests, per_instance: 0.05, unit: 1/s}]
    maximum: 40
    max_step: 40
    prediction: {mode: always, worth: 40}
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    values = rng.gamma(1.2, 30.0, 3 * 96 + 2)
    times = np.datetime64("2026-11-01T00:00:00") + np.arange(values.size) * np.timedelta64(900, "s")
    file = tmp_path / "load.csv"
    rows = (f"{str(t).replace('T', ' ')},{v:.3f}" for t, v in zip(times, values, strict=True))
    file.write_text("timestamp,value\n" + "\n".join(rows) + "\n", "utf-8")
    return file


def simulate(tmp_path: Path, trace: Path, text: str, *more: str) -> int:
    file = tmp_path / "policies.yaml"
    file.write_text(text, "utf-8")
    return hub.main(["autoscale", "simulate", str(trace), "--policy", str(file), *more])


def test_each_policy_is_replayed_and_drawn(tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "days.png"
    assert simulate(tmp_path, trace, POLICIES, "--peak", "12", "--json", "--plot", str(picture)) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in rows] == ["reactive", "predictive"]
    assert 0 < rows[1]["violation_share"] < rows[0]["violation_share"]
    assert "with the forecast" in rows[1]["note"]
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_history_that_is_too_short_leaves_the_forecast_off(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.csv"
    short.write_text("\n".join(trace.read_text("utf-8").split("\n")[:150]), "utf-8")
    assert simulate(tmp_path, short, POLICIES.replace("mode: always", "mode: auto")) == 0
    assert "predictive: without the forecast: 1 whole days of history; 3 are needed" in capsys.readouterr().out


def test_a_table_shows_cost_by_a_file_of_prices(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("source: a test\nprices: [{type: c5.2xlarge, on_demand: 0.34, spot: 0.17}]\n", "utf-8")
    only = POLICIES.partition("  predictive:")[0]
    assert simulate(tmp_path, trace, only, "--prices", str(prices), "--spot", "0.6") == 0
    out = capsys.readouterr().out
    assert "saved" in out
    assert "reactive" in out
    assert simulate(tmp_path, trace, only, "--prices", str(prices), "--type", "x") == 2
    assert "has no type 'x', but: c5.2xlarge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("policies: {a: {maximum: 3, signals: [{name: r, per_instance: 1}], minimun: 1}}", "did you mean 'minimum'?"),
        ("policies: {a: {maximum: 3, minimum: 5, signals: [{name: r, per_instance: 1}]}}", "policies.a: 0 <= minimum"),
        ("policies: {a: {maximum: three, signals: []}}", "line 1"),
        ("policies: {}", "has 0 policies"),
        ("policies: [", "is no valid YAML"),
    ],
)
def test_a_wrong_policy_is_named_with_its_place_and_cure(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    assert simulate(tmp_path, trace, text) == EXIT_CONFIG
    error = capsys.readouterr().err
    assert named in error
    assert "policies.yaml" in error


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "Write the columns"), ("a,b\n1,2\n", "its columns are a, b"),
        ("timestamp,value\n2026-11-01,x\n", "line 2: 'x' cannot be read"),
        ("timestamp,value\nnow,1\n", "line 2: 'now' cannot be read"),
        ("timestamp,value\n2026-11-01,1\n", "ten points"), ("timestamp,value\n", "ten points"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no rows"),
        ("timestamp,value\n" + "".join(f"{y}-01-01,1\n" for y in range(1990, 2020)), "minutes"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_trace_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text, "utf-8")
    assert simulate(tmp_path, file, POLICIES) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("trace.csv") == 1


def test_a_missing_trace_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(tmp_path, tmp_path / "none.csv", POLICIES) == 2
    assert "cannot be read" in capsys.readouterr().err
