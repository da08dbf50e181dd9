"""One series for the subcommands that judge the past: from a CSV or Parquet file, or from a running hub by its REST."""

from __future__ import annotations

import argparse
import csv
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cloud_hub.cli.remote import Remote, RemoteError, connect
from shared.errors import ConfigError

if TYPE_CHECKING:
    from cloud_hub.thresholds.backtest.single_series import LabelledSeries

PAGE = 50_000
FILES = (".csv", ".parquet")


def read(arguments: argparse.Namespace, since_us: int, end_us: int | None = None) -> LabelledSeries:
    """The series that `arguments.series` names; of a hub's, what it measured in since_us..end_us (None: until now).

    Raises ConfigError or RemoteError.
    """
    name = str(arguments.series)
    if name.endswith(FILES):
        return _file(Path(name), arguments.name)
    device, slash, metric = name.partition("/")
    if not device or not slash or not metric:
        raise RemoteError(f"'{name}' is not a series: write device/metric, or a file ending in .csv or .parquet", 2)
    with connect(arguments) as hub:
        return _of_hub(hub, device, metric, since_us, end_us)


def _of_hub(hub: Remote, device: str, metric: str, since_us: int, end_us: int | None) -> LabelledSeries:
    known = hub.get(f"/devices/{quote(device, '')}").get("metrics") or []
    rows: list[dict[str, Any]] = []
    while True:  # from the newest back
        path = f"/devices/{quote(device, '')}/telemetry/{quote(metric)}"
        page = hub.get(path, start_us=since_us, end_us=end_us, limit=PAGE)
        rows = page + rows
        if len(page) < PAGE or page[0]["t_us"] == end_us:
            break
        end_us = page[0]["t_us"]
    good = [row for row in rows if isinstance(row["value"], (int, float)) and row["quality"] != "bad"]
    counter = any(
        known_metric.get("name") == metric and known_metric.get("kind") == "counter" for known_metric in known
    )
    return _stored(f"{device}/{metric}", [(row["t_us"], row["value"], "") for row in good], counter=counter)


def _file(path: Path, wanted: str | None) -> LabelledSeries:
    rows = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    names = sorted({str(row.get("series", "")) for row in rows})
    if wanted is None and len(names) > 1:
        raise ConfigError(str(path), f"holds {len(names)} series", f"Name one with --name, such as {names[0]}")
    if wanted is not None and wanted not in names:
        raise ConfigError(str(path), f"holds no series '{wanted}'", f"There are {len(names)}, such as {names[:1]}")
    mine = [row for row in rows if wanted is None or str(row.get("series", "")) == wanted]
    try:
        points = [(_time(row["timestamp"]), float(row["value"]), row.get("label", "")) for row in mine]
    except (KeyError, TypeError, ValueError) as error:
        cure = "Give columns timestamp and value (and label, if known)"
        raise ConfigError(str(path), f"a row cannot be read ({error})", cure) from error
    labelled = bool(mine) and "label" in mine[0]
    return _stored(wanted or names[0] if names and names[0] else path.stem, points, labelled=labelled)


def _csv(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), f"cannot be read ({error})", "Name a CSV file with a line of headings") from error


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise ConfigError(str(path), "needs pyarrow", "Install it: pip install 'tidegate[parquet]'") from None
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise ConfigError(str(path), f"cannot be read ({error})", "Name a Parquet file") from error
    return rows


def _time(value: Any) -> int:
    """UTC microseconds of a date, a text such as 2014-02-14 14:27:00, or a number of s, ms, us or ns since 1970."""
    if isinstance(value, str) and not value.lstrip("-").replace(".", "", 1).isdigit():
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return round((value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp() * 1e6)
    number = float(value)
    scale = next(scale for most, scale in ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0), (1e300, 1e-3)) if abs(number) < most)
    return round(number * scale)


def _stored(
    name: str, points: list[tuple[int, float, Any]], *, labelled: bool = False, counter: bool = False
) -> LabelledSeries:
    import numpy as np  # noqa: PLC0415

    from cloud_hub.thresholds.backtest.single_series import LabelledSeries  # noqa: PLC0415

    points.sort(key=lambda point: point[0])
    labels: list[tuple[int, int]] = []
    before = False
    for t_us, _, label in points:
        now = str(label) in {"1", "1.0", "True", "true"}
        if now:
            labels[-1:] = [(labels[-1][0], t_us)] if before else [*labels[-1:], (t_us, t_us)]
        before = now
    return LabelledSeries(
        name=name, t_us=np.array([point[0] for point in points], np.int64),
        values=np.array([point[1] for point in points], np.float64), labels=labels, labelled=labelled, counter=counter,
    )  # fmt: skip
