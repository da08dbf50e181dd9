"""Runs the acts of the demo in order, checks each, and prints a summary."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from cloud_hub.broker.embedded import WARNING
from cloud_hub.demo import acts_alarms, acts_desk, acts_frames, acts_link, acts_scada
from cloud_hub.demo.client import ActFailed, ActLate, ActSkipped, busy
from cloud_hub.demo.view import Entry, View, summary
from cloud_hub.demo.world import World
from cloud_hub.security import secret_files
from shared.errors import ConfigError

Act = Callable[[World], list[str]]

ACTS: tuple[tuple[str, Act], ...] = (
    ("a. Twins", acts_link.twins),
    ("b. Split", acts_frames.split),
    ("c. Drift", acts_frames.drift),
    ("d. Thresholds", acts_alarms.thresholds),
    ("e. Incidents", acts_alarms.incidents),
    ("f. Desk", acts_desk.desk),
    ("g. Undo", acts_alarms.undo),
    ("h. Outage", acts_link.outage),
    ("i. Scale", acts_link.scale),
    ("j. SCADA", acts_scada.scada),
)


def play(devices: int = 3, seed: int = 7, keep: bool = False, json_file: Path | None = None) -> int:
    """Run the demo; returns 0 if every act was shown or skipped with a reason, 1 if one failed.

    Ctrl-C leaves no process behind.
    """
    if not 1 <= devices <= 50:
        raise ConfigError("--devices", f"{devices} devices do not fit one machine", "Give 1 to 50")
    console = Console()
    console.print(WARNING, style="bold yellow")
    folder = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    world = World(folder, devices, seed)
    entries = [Entry("start"), *(Entry(title) for title, _ in ACTS)]
    signal.signal(signal.SIGTERM, _interrupt)
    kept = False
    try:
        failed = _play(world, console, entries)
        summary(console, entries)
        if skipped := [entry.title for entry in entries if entry.state == "skipped"]:
            console.print(f"SKIPPED: {', '.join(skipped)}: not shown on this machine", style="bold yellow")
        kept = keep and not failed
        _finish(console, world, failed, kept, json_file)
    finally:
        if not kept:
            world.stop()
    if not failed and not kept:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _play(world: World, console: Console, entries: list[Entry]) -> str:
    """Run the acts; returns the title of the one that failed, or ''."""

    def start(world: World) -> list[str]:
        world.start()
        return [f"broker, hub, simulated cloud and {len(world.devices)} agents run as separate processes"]

    with View(console, entries) as view:
        for entry, (_, act) in zip(entries, (("start", start), *ACTS), strict=True):
            began = time.monotonic()
            entry.state = "running"
            view.update(entry)
            try:
                entry.lines = _shown(act, world, needed=entry.title == "start")
                world.check_alive()
            except ActSkipped as error:
                entry.state, entry.lines = "skipped", [*error.lines, f"cannot run here: {error}"]
            except ActFailed as error:
                entry.state, entry.lines = "failed", [str(error)]
            except Exception as error:  # noqa: BLE001 - reported like any other failure; the processes must still be stopped
                entry.state, entry.lines = "failed", [f"{type(error).__name__}: {error}"]
            else:
                entry.state = "shown"
            entry.took_s = time.monotonic() - began
            view.update(entry)
            view.watch(world)
            if entry.state == "failed":
                return entry.title
    return ""


def _shown(act: Act, world: World, *, needed: bool) -> list[str]:
    """Run an act; raises ActSkipped if it was late because this machine is busy, unless it is `needed`."""
    try:
        return act(world)
    except ActLate as error:
        reason = "" if needed else busy(os.getloadavg()[0], os.cpu_count() or 1)
        if not reason:
            raise
        raise ActSkipped(f"this machine is busy ({reason}): {error}") from error


def _finish(console: Console, world: World, failed: str, kept: bool, json_file: Path | None) -> None:
    if failed:
        console.print(f"FAILED: {failed}. Logs of every process: {world.folder}", style="bold red")
    if json_file is not None:
        secret_files.write(json_file, json.dumps(world.addresses(), indent=1), new=False)
    if kept:
        pids = " ".join(str(process.pid) for process in world.processes.values())
        console.print(f"Everything keeps running. REST: {world.client.base}/api/v1/devices")
        console.print(f"token: {world.client.token}", highlight=False)
        console.print(f"End it with: kill {pids}", highlight=False, soft_wrap=True)
