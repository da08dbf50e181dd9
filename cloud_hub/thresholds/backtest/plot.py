"""Plots a series with its band, the alarms of fixed limits and of Tidegate, and its labels.

Needs matplotlib (extra `plot`); writes a file and needs no display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.backtest.core.walk_forward import Band
from shared.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3000
"""With more than twice as many points, each column shows its lowest and highest value, so spikes stay visible."""
COLOURS = {"labels": "#e6a700", "fixed": "#7a5195", "ours": "#d62728"}
SIZE_INCHES, DPI = (14.0, 6.5), 110
BAND, LINE, LIMIT = "#9ecae1", "#1f4e79", "#7a5195"

Span = tuple[int, int]
"""(start, end) in UTC microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Content of the plot. `spans` has the keys labels, fixed and ours; `limits` are the numbers of fixed limits.

    The time before `from_us` is for training only.
    """

    title: str
    band: Band
    from_us: int
    spans: Mapping[str, Sequence[Span]]
    limits: Sequence[float] = ()


def save(picture: Picture, path: Path) -> None:
    """Write a PNG; the same picture gives the same bytes. Raises ConfigError without matplotlib or for a bad path."""
    figure = draw(picture)
    try:
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
    except OSError as error:
        raise ConfigError("--plot", f"'{path}' cannot be written ({error.strerror})", "Name another file") from error


def draw(picture: Picture) -> Figure:
    """The figure: series and band at the top, a row of bars for each of labels, fixed and ours below."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ConfigError("--plot", "needs matplotlib", "Install it: pip install 'tidegate[plot]'") from None
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    _series(above, picture)
    _rows(below, picture.spans)
    _dates(below)
    above.set_title(picture.title[:150], loc="left", parse_math=False)  # a name may contain $
    above.legend(loc="upper left", ncols=5, fontsize="small", framealpha=0.9)
    return figure


def _series(axes: Any, picture: Picture) -> None:
    band = picture.band
    times, low, high = downsample(band.t_us, band.low, band.high)
    sides = [np.where(np.isinf(side), np.nan, side) for side in (low, high)]
    when = _when(times)
    axes.fill_between(when, *sides, color=BAND, alpha=0.6, linewidth=0, label="band", zorder=1)
    times, low, high = downsample(band.t_us, band.values, band.values)
    shown = (times, low) if low is high else (np.repeat(times, 2), np.column_stack([low, high]).ravel())
    axes.plot(_when(shown[0]), shown[1], color=LINE, linewidth=0.8, label="series", zorder=3)
    for number, limit in enumerate(picture.limits):
        axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=1, label="" if number else "fixed limit", zorder=2)
    for start, end in picture.spans.get("labels", ()):
        axes.axvspan(*_when(np.array([start, end])), color=COLOURS["labels"], alpha=0.25, zorder=0)
    for number, (start, _) in enumerate(picture.spans.get("ours", ())):
        mark = "" if number else "our alarm"
        axes.axvline(_when(np.array([start]))[0], color=COLOURS["ours"], linewidth=1.2, label=mark, zorder=4)
    if band.t_us.size and picture.from_us > band.t_us[0]:
        learned = _when(np.array([int(band.t_us[0]), picture.from_us]))
        axes.axvspan(*learned, color="#999999", alpha=0.15, label="only learned from", zorder=0)
    _look_at_the_series(axes, band)


def _look_at_the_series(axes: Any, band: Band) -> None:
    """Scale the axis to the series and the middle of the band, so that a wide band does not flatten the plot."""
    if not band.values.size:
        return
    edges = [side[np.isfinite(side)] for side in (band.low, band.high)]
    usual = [np.quantile(side, [0.1, 0.9]) for side in edges if side.size]
    numbers = np.concatenate([[band.values.min(), band.values.max()], *usual])
    room = float(np.ptp(numbers)) * 0.06 or max(abs(float(numbers[0])), 1.0) * 0.1
    axes.set_ylim(float(numbers.min()) - room, float(numbers.max()) + 2 * room)
    axes.grid(visible=True, alpha=0.3)


def _rows(axes: Any, spans: Mapping[str, Sequence[Span]]) -> None:
    names = [name for name in COLOURS if name in spans]
    for row, name in enumerate(reversed(names)):
        bars = [_when(np.array(span)) for span in spans[name]]
        axes.broken_barh([(a, max(b - a, 0.0)) for a, b in bars], (row - 0.35, 0.7), color=COLOURS[name],
                         edgecolor=COLOURS[name], linewidth=1.5)  # fmt: skip
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.grid(visible=True, axis="x", alpha=0.3)


def _dates(axes: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415

    locator = AutoDateLocator(tz=timezone.utc)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=timezone.utc))
    axes.set_xlabel("UTC")


def _when(t_us: npt.NDArray[Any]) -> Any:
    """Days since 1970, matplotlib's own numbers for dates."""
    from matplotlib.dates import date2num  # noqa: PLC0415

    epoch = float(date2num(datetime(1970, 1, 1, tzinfo=timezone.utc)))
    return np.asarray(t_us, dtype=np.float64) / 86_400e6 + epoch


def downsample(
    t_us: npt.NDArray[np.int64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """At most COLUMNS times, each with the lowest and highest number; shorter series are unchanged."""
    if t_us.size <= 2 * COLUMNS:
        return t_us, low, high
    firsts = np.linspace(0, t_us.size, COLUMNS, endpoint=False).astype(np.int64)
    return t_us[firsts], np.fmin.reduceat(low, firsts), np.fmax.reduceat(high, firsts)
