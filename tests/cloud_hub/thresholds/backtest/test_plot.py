"""The picture of a series: what is drawn is there (artists) and is seen (pixels); the command that makes it."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image
from matplotlib.colors import to_rgb
from simulators.receivers import Answer, Asked, receiver

from cloud_hub import __main__
from cloud_hub.thresholds.backtest import plot
from cloud_hub.thresholds.backtest.core.counter_rates import counter_rates
from cloud_hub.thresholds.backtest.core.walk_forward import Band
from cloud_hub.thresholds.backtest.plot import COLOURS, Picture, downsample, draw, save
from shared.errors import ConfigError

S = 1_000_000
START = 1_760_000_000 * S
STEP = 300 * S
FAULT = 3000


def picture(count: int = 4000, title: str = "press-3/cpu.load") -> Picture:
    t_us = START + np.arange(count, dtype=np.int64) * STEP
    values = 50 + 20 * np.sin(np.arange(count) / 288 * 2 * math.pi)
    values[FAULT : FAULT + 20] = 140.0
    low, high = values - 10, values + 10
    low[:1000], high[:1000] = np.nan, np.nan
    high[1500] = np.inf
    trouble, around = int(t_us[FAULT]), 50 * STEP
    return Picture(
        title=title, band=Band(t_us=t_us, values=values, low=low, high=high), from_us=int(t_us[1000]),
        spans={"labels": [(trouble - around, trouble + around)], "fixed": [], "ours": [(trouble, trouble + STEP)]},
        limits=(90.0,),
    )  # fmt: skip


def test_everything_that_was_asked_for_is_drawn() -> None:
    above, below = draw(picture()).axes
    names = {text.get_text() for text in above.get_legend().get_texts()}
    assert names == {"band", "series", "fixed limit", "our alarm", "only learned from"}
    (line,) = [one for one in above.lines if one.get_label() == "series"]
    assert max(line.get_ydata()) == 140.0  # type: ignore[type-var]
    assert [tick.get_text() for tick in below.get_yticklabels()] == ["ours", "fixed", "labels"]
    assert sorted(len(bars.get_paths()) for bars in below.collections) == [0, 1, 1]
    (alarm,) = [one for one in above.lines if one.get_label() == "our alarm"]
    assert alarm.get_xdata()[0] == pytest.approx((START + FAULT * STEP) / 86_400e6)  # type: ignore[index]
    assert above.get_title(loc="left") == "press-3/cpu.load"
    low, high = above.get_ylim()
    assert low < 30
    assert high > 140


def pixels(path: Path, colour: str) -> np.ndarray[Any, Any]:
    """Where the file has this colour: (row, column) as shares of its height and width."""
    found = image.imread(path)[..., :3]
    near = np.abs(found - np.array(to_rgb(colour))).max(axis=2) < 0.02
    return np.argwhere(near) / np.array(near.shape)


def test_the_file_shows_the_alarm_where_it_was(tmp_path: Path) -> None:
    save(picture(), tmp_path / "a.png")
    height, width = image.imread(tmp_path / "a.png").shape[:2]
    assert (width, height) == (1540, 715)
    alarm, label = pixels(tmp_path / "a.png", COLOURS["ours"]), pixels(tmp_path / "a.png", COLOURS["labels"])
    where = np.median(alarm[:, 1])
    assert 0.70 < where < 0.78, "three quarters of the way"
    assert label[:, 1].min() < where < label[:, 1].max()
    assert min(alarm[:, 0].min(), label[:, 0].min()) > 0.75, "in the rows below"
    assert alarm[:, 0].min() > label[:, 0].max(), "each in its own"
    assert len(pixels(tmp_path / "a.png", "#1f4e79")) > 1000


def test_the_same_picture_is_the_same_file_and_a_name_is_no_formula(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(picture(title=r"evil/$\frac{1}{0$ $$"), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_almost_nothing_is_drawn_too(count: int, tmp_path: Path) -> None:
    t_us = START + np.arange(count, dtype=np.int64)
    none = np.full(count, np.nan)
    band = Band(t_us=t_us, values=np.zeros(count), low=none, high=none)
    save(Picture(title="x", band=band, from_us=START, spans={"ours": []}), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


@given(st.integers(0, 30_000), st.integers(0, 2**32 - 1))
def test_a_lone_spike_survives_the_thinning(count: int, seed: int) -> None:
    values = np.random.RandomState(seed).normal(size=count)
    times, low, high = downsample(np.arange(count, dtype=np.int64), values, values)
    assert len(times) <= 2 * plot.COLUMNS
    if count:
        assert (low.min(), high.max()) == (values.min(), values.max())


def test_without_matplotlib_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"tidegate\[plot\]"):
        save(picture(), tmp_path / "a.png")


# -- counters --------------------------------------------------------------------------------------------


def test_a_counter_that_starts_anew_goes_on() -> None:
    t_us, found = counter_rates(np.array([0, 10, 20, 30]) * S, np.array([5.0, 25.0, 10.0, np.nan]))
    assert t_us.tolist() == [10 * S, 20 * S]
    assert found.tolist() == [2.0, 1.0]


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1e6)), max_size=50))
def test_no_rate_is_below_zero(steps: list[tuple[int, float]]) -> None:
    t_us = np.cumsum([0, *(gap for gap, _ in steps)]).astype(np.int64) * S
    values = np.array([0.0, *(value for _, value in steps)])
    assert (counter_rates(t_us, values)[1] >= 0).all()


# -- the command -----------------------------------------------------------------------------------------


def rows(days: int = 12) -> Iterator[tuple[int, float, int]]:
    noise = np.random.RandomState(4).normal(0, 1, days * 288)
    for n in range(days * 288):
        trouble = 10 * 288 + 100 <= n < 10 * 288 + 140
        value = 150.0 if trouble else 50 + 20 * math.sin(n / 288 * 2 * math.pi) + noise[n]
        yield 1_760_000_000 + n * 300, value, int(trouble)


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("csv") / "week.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "value", "label"])
        writer.writerows(rows())
    return path


def test_a_file_is_judged_and_drawn(week: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.png"
    command = ["backtest", str(week), "--limit", "cpu > 90 for 5m", "--plot", str(out)]
    assert __main__.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["alarms"]["fixed"] == 1
    assert told["episodes"]["both"] == 1
    assert "labels: 1 of 1 windows hit by ours, 0 alarms outside" in told["notes"]
    assert len(pixels(out, COLOURS["ours"])) > 100
    assert __main__.main(command) == 0
    assert "anomaly score" in capsys.readouterr().out


def test_a_parquet_file_with_several_series_wants_a_name(
    week: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrow: Any = pytest.importorskip("pyarrow")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    times, values, labels = (list(column) for column in zip(*rows(), strict=True))
    path = tmp_path / "two.parquet"
    columns = {
        "series": ["a"] * len(times) + ["b"] * len(times), "timestamp": [t * 1000 for t in times] * 2,
        "value": values * 2, "label": labels * 2,
    }  # fmt: skip
    parquet.write_table(arrow.table(columns), path)
    assert __main__.main(["backtest", str(path)]) == 78
    assert __main__.main(["backtest", str(path), "--name", "c"]) == 78
    assert "--name" in capsys.readouterr().err
    assert __main__.main(["backtest", str(path), "--name", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == len(times)


def test_a_series_of_a_hub_comes_page_by_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = [{"t_us": t * S, "value": v, "quality": "good", "seq": 0} for t, v, _ in rows()]
    stored[5] |= {"value": None, "quality": "bad"}
    stored[6] |= {"value": "text"}
    asked: list[Asked] = []

    def answer(one: Asked) -> Answer:
        asked.append(one)
        if one.path.endswith("/telemetry/cpu.load"):
            end = int(one.query.get("end_us", 1 << 62))
            found = [row for row in stored if row["t_us"] < end][-int(one.query["limit"]) :]
            return 200, json.dumps(found).encode()
        return 200, json.dumps({"metrics": [{"name": "cpu.load", "kind": "gauge"}]}).encode()

    monkeypatch.setenv("TIDEGATE_TOKEN", "tg_x")
    monkeypatch.setattr("cloud_hub.cli.series.PAGE", 1000)
    with receiver(answer) as url:
        code = __main__.main(
            ["backtest", "press-3/cpu.load", "--url", url, "--plot", str(tmp_path / "a.png"), "--json"]
        )
    assert code == 0
    assert json.loads(capsys.readouterr().out)["points"] == len(stored) - 2
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "SERIES"), (["a/b", "--prometheus", "http://h"], 2, "just one"),
        (["--prometheus", "http://h", "--plot", "x.png"], 2, "SERIES"), (["nonsense"], 2, "device/metric"),
        (["/none/there.csv"], 78, "cannot be read"), (["/none/there.parquet"], 78, "cannot be read"),
        (["a/b", "--url", "http://127.0.0.1:9"], 5, "Is it running"),
    ],
)  # fmt: skip
def test_wrong_use_is_told(
    arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_TOKEN", "tg_x")
    assert __main__.main(["backtest", *arguments]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "timestamp,value\nsoon,1\n", "timestamp,value\n1,x\n", "timestamp,value\n1,2\n"]
)
def test_a_file_that_is_none_is_told(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert __main__.main(["backtest", str(tmp_path / "a.csv")]) in (1, 78)
    assert "a" in capsys.readouterr().err


def test_a_plot_that_cannot_be_written_is_told(week: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["backtest", str(week), "--plot", "/none/there.png"]) == 78
    assert "Name another file" in capsys.readouterr().err
