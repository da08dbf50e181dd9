"""Draws a simulation: load, capacity, violations and cost of each policy. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from cloud_hub.autoscale.core.simulate import LONGEST_WAIT_S, Result
from shared.errors import ConfigError

RED, BLUE = "#c0392b", "#1f5fa8"


def save(results: Mapping[str, Result], file: Path, unit: str = "") -> None:
    """Write a picture with a row for each policy; the kind is that of the file's name (PNG, SVG).

    Raises ConfigError without matplotlib, or if the file cannot be written.
    """
    try:
        plt: Any = import_module("matplotlib.figure")
        dates: Any = import_module("matplotlib.dates")
    except ImportError as error:
        raise ConfigError("--plot", "matplotlib is not installed", "pip install 'tidegate[plot]'") from error
    figure = plt.Figure(figsize=(10, 1 + 2.2 * len(results)), layout="constrained", dpi=110)
    axes = figure.subplots(len(results), sharex=True, squeeze=False)[:, 0]
    for axis, (name, result) in zip(axes, results.items(), strict=True):
        _row(axis, name, result, unit)
    axes[-1].xaxis.set_major_formatter(dates.ConciseDateFormatter(axes[-1].xaxis.get_major_locator()))
    try:
        figure.savefig(file, metadata={"Software": None} if file.suffix == ".png" else None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            str(file), f"cannot be written: {error}", "Name a .png or .svg in a writable folder"
        ) from error


def _row(axis: Any, name: str, result: Result, unit: str) -> None:
    world = result.world
    at = (world.start_us + np.arange(world.rate.size) * int(world.step_s * 1e6)).astype("datetime64[us]")
    shown = slice(world.unscored, None)
    axis.plot(at[shown], world.rate[shown], color="black", lw=0.5, label="load")
    axis.step(at[shown], result.ready[shown] * world.per_instance, color=BLUE, lw=0.8, where="post", label="capacity")
    top = max(float(world.rate[shown].max()), float(result.ready[shown].max()) * world.per_instance)
    late = result.wait_s[shown] > LONGEST_WAIT_S
    axis.fill_between(at[shown], 0, top, where=late, color=RED, alpha=0.3, lw=0, step="post", label="violation")
    axis.set_ylabel(unit or "load a second")
    axis.set_title(
        f"{name}: {100 * result.violation_share:.2f} % violation minutes, {result.instance_hours:.0f} instance-hours,"
        f" {result.changes} changes", fontsize=9,
    )  # fmt: skip
    axis.legend(loc="upper left", fontsize=6, frameon=False, ncols=3)
