"""A bundle and a child process for tests of models."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.collectors import Frame
from edge_agent.config import ModelTable
from edge_agent.models.core.gating import ResultGate
from edge_agent.models.slot import ModelSlot
from edge_agent.runtime.event_loop import EventLoop
from shared.backoff import Backoff
from shared.models.gate import Gate
from shared.protocol.messages import Escalation, Event, Sample

DIGITS = Path(__file__).parents[2] / "cloud_hub" / "demo" / "assets" / "digits-edge"
SHAPE = (8, 8)


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def with_model(folder: Path, content: bytes, **changes: Any) -> Path:
    """Another model file, truly named by its manifest."""
    (folder / "model.onnx").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    edit(folder, lambda manifest: manifest["files"].update({"model.onnx": entry}))
    edit(folder, lambda manifest: manifest.update(changes))
    return folder


def rename(folder: Path, name: str) -> None:
    """The manifest names its model file `name`."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"].pop("model.onnx")
        for variant in manifest["variants"].values():
            variant["file"] = name

    edit(folder, change)


def with_runner(folder: Path, runner: str) -> None:
    """Every variant names just this runner."""

    def change(manifest: dict[str, Any]) -> None:
        for variant in manifest["variants"].values():
            variant["runners"] = [runner]

    edit(folder, change)


def tampered(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def missing(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def leaving(folder: Path) -> None:
    shutil.copy(folder / "model.onnx", folder.parent / "model.onnx")
    rename(folder, "../model.onnx")


def symlink_out(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    shutil.move(folder / "model.onnx", outside)
    (folder / "model.onnx").symlink_to(outside)


def nul_in_name(folder: Path) -> None:
    rename(folder, "model\0.onnx")


def deep_json(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"x": ' + "[" * 100_000)


def frame(number: int) -> Frame:
    return Frame(source="camera", number=number, t_us=number, shape=SHAPE, data=bytes(64))


class Bench:
    """A slot with a real child in a real loop, driven until something is so."""

    def __init__(self, folder: Path, watchdog_s: float = 30.0) -> None:
        self.loop, self.said, self.states = EventLoop(), list[Sample | Escalation | Event](), list[str]()
        table = ModelTable(name="line", bundle=str(folder), frames="camera", watchdog_s=watchdog_s)
        self.slot = ModelSlot(table, self.loop.post, self.said.extend, self._changed)
        self.slot._backoff = Backoff(0.01, 10.0, lambda: 1.0)
        self.loop.every(0.01, lambda: self.slot.tick(1))

    def _changed(self) -> None:
        self.states.append(self.slot.state["state"])

    def until(self, condition: Callable[[], bool]) -> None:
        done = False

        def look() -> None:
            nonlocal done
            if not done and condition():
                done = True
                self.loop.stop()

        timer = self.loop.every(0.005, look)
        self.loop.run()
        timer.period_s = 3600.0

    def running(self, starts: int = 1) -> None:
        self.until(lambda: self.slot.state["state"] == "running" and self.slot.state["starts"] == starts)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.slot.state["pid"], number)

    def escalations(self) -> list[tuple[int, str]]:
        return [(one.number, one.reason) for one in self.said if isinstance(one, Escalation)]

    def events(self) -> list[str]:
        return [one.text for one in self.said if isinstance(one, Event)]


DIGEST = "sha256:d"


def gate(digest: str = DIGEST, **changes: Any) -> Gate:
    fields: dict[str, Any] = {"alpha": 0.02, "delta": 0.1, "n": 300, "k": 2, "margin": 0.0, "audit": 0.25}
    return Gate(digest=digest, **(fields | changes))


def keeper(chosen: Gate | None) -> ResultGate:
    made = ResultGate("line")
    made.use(chosen)
    return made
