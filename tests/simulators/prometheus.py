"""A real Prometheus for tests: its store filled with the past from OpenMetrics text, then started on loopback."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from simulators.brokers import free_port
from simulators.servers import serving

Point = tuple[float, float]
"""(seconds, value)"""


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return found


@dataclass(frozen=True)
class Past:
    """One series to fill the store with; `kind` is its OpenMetrics type."""

    name: str
    labels: Mapping[str, str]
    points: list[Point]
    kind: str = "gauge"

    def family(self) -> str:
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {key: value.replace("\\", "\\\\").replace('"', '\\"') for key, value in labels.items()}
    return ",".join(f'{key}="{value}"' for key, value in escaped.items())


def openmetrics(series: Iterable[Past]) -> str:
    """Families whole, as the format wants them."""
    lines: list[str] = []
    families: dict[str, list[Past]] = {}
    for one in series:
        families.setdefault(one.family(), []).append(one)
    for family, members in families.items():
        lines.append(f"# TYPE {family} {members[0].kind}")
        lines += [
            f"{one.name}{{{_labels(one.labels)}}} {value!r} {t:.3f}".replace("nan", "NaN")
            for one in members
            for t, value in one.points
        ]
    return "\n".join([*lines, "# EOF", ""])


@contextmanager
def prometheus(
    folder: Path, past: Iterable[Past] = (), config: str | Callable[[int], str] = "", **files: str
) -> Iterator[str]:  # fmt: skip
    """A running server; gives its address. `config` may be made from its port.

    `files` (`rules="..."` is rules.yml) lie beside its configuration.
    """
    program, tool = _program("prometheus"), _program("promtool")
    folder.mkdir(parents=True, exist_ok=True)
    series = list(past)
    if series:
        (folder / "past.txt").write_text(openmetrics(series), "utf-8")
        command = [tool, "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=96h", "past.txt", "data"]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
    for name, text in files.items():
        (folder / f"{name}.yml").write_text(text, "utf-8")
    port = free_port()
    text = config if isinstance(config, str) else config(port)
    (folder / "prometheus.yml").write_text(text or "global: {scrape_interval: 1s}\n", "utf-8")
    command = [
        program, "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--storage.tsdb.retention.time=400d",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with serving(command, folder, port) as url:
        yield url
