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

from edge_agent import clock
from edge_agent.collectors import Frame
from edge_agent.config import ModelTable
from edge_agent.models.core.gating import ResultGate
from edge_agent.models.engine import Engine
from edge_agent.models.pool import EnginePool
from edge_agent.models.stream import ModelStream
from edge_agent.models.wire import ModelSpec
from edge_agent.runtime.event_loop import EventLoop
from shared.backoff import Backoff
from shared.models.gate import Gate
from shared.protocol.messages import Escalation, Event, ModelOutput, Sample

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
    return Frame(source="camera", number=number, t_us=number, shape=(*SHAPE, 1), data=bytes(64))


class Bench:
    """A stream with a real inference process in a real loop, driven until something is so."""

    def __init__(self, folder: Path, budget_mb: float = 0.0, **changes: Any) -> None:
        self.loop, self.said, self.states = EventLoop(), list[Any](), list[str]()
        self.outputs: list[ModelOutput] = []
        self.pool = EnginePool(self.loop.post, budget_mb)
        self.streams: list[ModelStream] = []
        self.stream = self.add(folder, **changes)
        self.loop.every(0.01, self._tick)

    def add(self, folder: Path, name: str = "line", chained: bool = False, **changes: Any) -> ModelStream:
        spec = {key: changes.pop(key) for key in list(changes) if key in ModelSpec.__struct_fields__}
        spec = {"bundle": str(folder), "variants": ("cpu-int8",)} | spec
        table = ModelTable(name=name, bundle=str(folder), frames="camera", **changes)
        made = ModelStream(
            table, ModelSpec(**spec), self.pool, self.said.extend, self._changed, self.outputs.append, chained=chained
        )
        self.streams.append(made)
        self.engine(made)._supervisor.backoff = Backoff(0.01, 10.0, lambda: 1.0)
        return made

    @staticmethod
    def engine(stream: ModelStream) -> Engine:
        return stream.model._seat.engine

    def _tick(self) -> None:
        self.pool.tick(clock.monotonic_s())
        for stream in self.streams:
            stream.tick(1)

    def _changed(self) -> None:
        if self.streams:
            self.states.append(self.stream.state["state"])

    @property
    def state(self) -> dict[str, Any]:
        return self.stream.state

    def stop(self) -> None:
        for stream in self.streams:
            stream.stop()
        self.pool.stop()

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
        self.until(lambda: self.stream.state["state"] == "running" and self.stream.state["starts"] == starts)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.stream.state["pid"], number)

    def escalations(self) -> list[tuple[int, str]]:
        return [(one.number, one.reason) for one in self.said if isinstance(one, Escalation)]

    def samples(self, name: str, stream: str = "line") -> list[Any]:
        return [one.value for one in self.said if isinstance(one, Sample) and one.metric == f"{stream}/{name}"]

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
