"""Output of all benchmarks: a table on the terminal and a common JSON format."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    dataset: str
    method: str
    metric: str
    value: float
    unit: str


def arguments(description: str, **defaults: float | str) -> argparse.Namespace:
    """The options that all benchmarks have: --json, --seed, and values of their own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--seed", type=int, default=7)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def machine() -> str:
    """A description of this machine."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """(median, 99th percentile)."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def publish(name: str, seed: int, rows: Sequence[Row], file: Path | None, note: str = "") -> None:
    """Print the table, and write the JSON where it is asked for; `note` says what the figures are not."""
    print(f"{name} (seed {seed}) on {machine()}")
    if note:
        print(f"  {note}")
    for row in rows:
        print(f"  {row.dataset:<28} {row.method:<34} {row.metric:<26} {row.value:>12.4g} {row.unit}")
    if file is not None:
        found = {"name": name, "seed": seed, "machine": machine(), "note": note, "rows": [asdict(row) for row in rows]}
        file.write_text(json.dumps(found, indent=1), "utf-8")
