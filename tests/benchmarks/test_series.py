"""Files of labelled series: what is read, and what is refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.series import read

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def written(folder: Path, **columns: Any) -> Path:
    file = folder / "some.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def five(unit: str = "ns") -> Any:
    return pa.array([0, 300, 600, 900, 1200], pa.timestamp("s")).cast(pa.timestamp(unit))


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_series_come_by_name_and_samples_by_time(tmp_path: Path, unit: str) -> None:
    file = written(
        tmp_path, series=["b", "a", "b", "b", "b"], timestamp=five(unit), value=[3.0, 1.0, None, 5.0, 6.0],
        label=[0, 0, 1, 1, 0], window=[-1, -1, 0, 0, -1],
    )  # fmt: skip
    first, second = read(file)
    assert (first.name, first.windows) == ("a", ())
    assert second.t_us.tolist() == [0, 600_000_000, 900_000_000, 1_200_000_000]
    assert np.isnan(second.values[1])
    assert second.windows == ((1, 2),)


def test_samples_out_of_order_are_sorted_with_their_windows(tmp_path: Path) -> None:
    times = five().take(pa.array([4, 1, 0, 2, 3]))
    file = written(tmp_path, series=["a"] * 5, timestamp=times, value=[4, 1, 0, 2, 3], window=[-1, 0, -1, 1, 1])
    (one,) = read(file)
    assert one.values.tolist() == [0, 1, 2, 3, 4]
    assert one.windows == ((1, 1), (2, 3))


def test_windows_come_from_labels_alone(tmp_path: Path) -> None:
    file = written(tmp_path, series=["a"] * 5, timestamp=five(), value=[1.0] * 5, label=[1, 1, 0, 1, 0])
    assert read(file)[0].windows == ((0, 1), (3, 3))


def test_a_file_without_windows_is_read(tmp_path: Path) -> None:
    file = written(tmp_path, series=["a"] * 5, timestamp=five(), value=[1.0] * 5, window=[-1] * 5)
    assert read(file)[0].windows == ()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"series": ["a"], "value": [1.0], "window": [0]}, "lacks the column timestamp"),
        ({"series": ["a"], "timestamp": [1], "value": [1.0]}, "lacks the column label or window"),
        ({"series": ["a"], "timestamp": [1], "value": ["x"], "window": [0]}, "column of an unusable type"),
        ({"series": [], "timestamp": [], "value": [], "window": []}, "holds no samples|unusable type"),
    ],
)
def test_an_unusable_file_is_refused_with_the_reason(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    file = written(tmp_path, **columns)
    with pytest.raises(ValueError, match=reason) as refused:
        read(file)
    assert str(file) in str(refused.value)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.csv"
    file.write_text("series,value\n")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read(file)
