"""The display of the demo: acts and devices while it runs, then a summary. Plain lines without a terminal."""

from __future__ import annotations

import textwrap
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cloud_hub.demo.client import ActFailed
from cloud_hub.demo.world import World

MARKS = {"waiting": "·", "running": "▶", "shown": "✓", "skipped": "-", "failed": "✗"}
STYLES = {"waiting": "dim", "running": "bold yellow", "shown": "green", "skipped": "yellow", "failed": "bold red"}


@dataclass(slots=True)
class Entry:
    """The display state of an act."""

    title: str
    state: str = "waiting"
    took_s: float = 0.0
    lines: list[str] = field(default_factory=list)


class View:
    """Displays `entries` and the fleet. A context manager."""

    def __init__(self, console: Console, entries: list[Entry]) -> None:
        self._console, self._entries = console, entries
        self._world: World | None = None
        self._fleet: list[dict[str, Any]] = []
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=4, transient=True)
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(15)
        if self._console.is_terminal:
            self._live.stop()

    def watch(self, world: World) -> None:
        """Display the fleet of this world."""
        self._world = world

    def update(self, entry: Entry) -> None:
        """Display the new state of an act."""
        if self._console.is_terminal:
            return
        took = f" ({entry.took_s:.1f} s)" if entry.state in {"shown", "skipped", "failed"} else ""
        self._console.print(f"{MARKS[entry.state]} {entry.title}: {entry.state}{took}", highlight=False, markup=False)
        for line in entry.lines:
            self._console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)

    def _look(self) -> None:
        while not self._stopping.wait(1.0):
            if self._world is None or not self._console.is_terminal:
                continue
            try:
                self._fleet = self._world.client.get("/devices")
            except ActFailed:
                self._fleet = [row | {"state": "hub away"} for row in self._fleet]

    def _picture(self) -> Group:
        acts = Table.grid(padding=(0, 1))
        for entry in self._entries:
            style, newest = STYLES[entry.state], entry.lines[-1] if entry.lines else ""
            acts.add_row(
                Text(MARKS[entry.state], style), Text(entry.title, style),
                Text(textwrap.shorten(newest, 100, placeholder=" ..."), "dim"),
            )  # fmt: skip
        fleet = Table.grid(padding=(0, 2))
        for row in self._fleet:
            fleet.add_row(Text(row["id"], "cyan"), row["profile"], Text(row["state"]), row["asset_path"])
        head = Text(f"Tidegate demo, {time.monotonic() - self._began:.0f} s", "bold")
        return Group(head, Text(), fleet, Text(), acts)


def summary(console: Console, entries: list[Entry]) -> None:
    """Print a table of the acts with their results."""
    table = Table(title="What was shown", show_lines=True, title_style="bold")
    for name in ("act", "", "s", "figures"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        mark = Text(MARKS[entry.state], STYLES[entry.state])
        table.add_row(entry.title, mark, f"{entry.took_s:.1f}", Text("\n".join(entry.lines)))
    console.print(table)
