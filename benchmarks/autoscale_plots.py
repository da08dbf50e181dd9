"""Plots of the autoscaling benchmark: curves of violation against cost, and a day of decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from cloud_hub.autoscale.core.curves import Point, best

OURS = ("#1f5fa8", "#0b2e59")
COLOURS = ("#c0392b", "#7f8c8d", "#e08e45", "#8e6bbf", "#3a9a5f", "#b58900", "#20a0a0", "#d46a9f")


def draw(name: str, curves: Mapping[str, Sequence[Point]], bound: float, file: Path) -> None:
    """Write the curves as PNG: violations over cost, the best settings of each policy, and the bound of foresight."""
    plt: Any = import_module("matplotlib.figure")
    figure = plt.Figure(figsize=(8, 5), layout="constrained", dpi=130)
    axis = figure.subplots()
    ours, others = iter(OURS), iter(COLOURS)
    for label, points in curves.items():
        mine = label.startswith("Tidegate")
        shown = [p for p in best(points) if p.violations < 0.9]
        axis.plot(
            [p.hours for p in shown], [max(100 * p.violations, 0.02) for p in shown], label=label,
            color=next(ours if mine else others), lw=2 if mine else 1, marker="o", ms=3 if mine else 2,
            ls="-" if mine else "--",
        )  # fmt: skip
    axis.axvline(bound, color="black", lw=1, ls=":", label="perfect foresight, no violation")
    axis.set(
        yscale="log", ylim=(0.02, 100), xlim=(0.9 * bound, 5 * bound), xlabel="instance-hours",
        ylabel="violation minutes, % (0.02 and less at the edge)", title=name,
    )  # fmt: skip
    axis.legend(fontsize=7, frameon=False)
    axis.grid(alpha=0.2)
    figure.savefig(file, metadata={"Software": None})
