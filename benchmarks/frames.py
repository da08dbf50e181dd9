"""Measures the agent's overhead per frame over a bare `InferenceSession.run`, with the same model in the same run.

    python -m benchmarks.frames [--frames 3000] [--json FILE]

bare: the session alone in this process. runner: with pixels -> tensor and the panel's features. child: the same in
the inference child over its pipes, one frame at a time. judged: with gate, drift panel and samples. committed: with
the outbox, one FULL commit for every 20 frames (a second of the demo's camera), as the agent does it. On a busy machine
the mean is that of waiting for a processor: compare medians.
"""

from __future__ import annotations

import queue
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.report import Row, arguments, percentiles, publish
from cloud_hub.demo.world import ASSETS
from edge_agent import clock
from edge_agent.collectors import Frame
from edge_agent.models.child import InferenceChild
from edge_agent.models.core.gating import ResultGate
from edge_agent.models.onnx import open_runner
from edge_agent.models.worker import InferenceResult, Ready, WorkerMessage
from edge_agent.store.outbox import Outbox, RowBatch
from shared.models.bundle import load
from shared.models.gate import Gate, Result, drift_tests

BUNDLE = ASSETS / "digits-edge"
COMMIT_EVERY = 20


def timed(frames: list[bytes], one: Callable[[int, bytes], object]) -> list[float]:
    """Microseconds of each call, after a hundred that do not count."""
    for number, frame in enumerate(frames[:100]):
        one(len(frames) + number, frame)
    took = []
    for number, frame in enumerate(frames):
        began = time.perf_counter()
        one(number, frame)
        took.append((time.perf_counter() - began) * 1e6)
    return took


def bare_session() -> Callable[[int, bytes], object]:
    """The session alone; its input tensor is ready."""
    bundle = load(BUNDLE)
    choices = ort.SessionOptions()
    choices.intra_op_num_threads = 1
    choices.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(bundle.model("cpu-int8"), choices, providers=["CPUExecutionProvider"])
    tensor = np.zeros((1, 1, 8, 8), np.float32)
    return lambda _number, _frame: session.run(["probabilities"], {"image": tensor})


class Child:
    """The inference child, asked one frame at a time."""

    def __init__(self) -> None:
        self._words: queue.SimpleQueue[WorkerMessage] = queue.SimpleQueue()
        self._child = InferenceChild(str(BUNDLE), self._words.put, lambda: None)
        ready = self._words.get(timeout=30)
        if not isinstance(ready, Ready):
            raise SystemExit(f"the model did not start: {ready}")

    def answer(self, number: int, data: bytes) -> tuple[Frame, Result | None]:
        """The frame and its result."""
        frame = Frame(source="camera", number=number, t_us=clock.now_us(), shape=(8, 8), data=data)
        self._child.submit(frame)
        word = self._words.get(timeout=10)
        self._child.in_flight.pop(number, None)
        return frame, word.result if isinstance(word, InferenceResult) else None

    def end(self) -> None:
        """End it."""
        self._child.end()


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", frames=3000)
    rng = np.random.default_rng(options.seed)
    frames = [rng.integers(0, 255, 64, dtype=np.uint8).tobytes() for _ in range(options.frames)]
    runner = open_runner(load(BUNDLE))
    results = [runner.run((8, 8), frame) for frame in frames[:300]]
    gate = Gate(digest=results[0].digest, alpha=0.02, delta=0.1, n=300, k=2, margin=0.5,
                panel=drift_tests([r.features for r in results]))  # fmt: skip
    keeper, child = ResultGate("line-camera"), Child()
    keeper.use(gate)

    def judged(number: int, data: bytes) -> list[object]:
        frame, result = child.answer(number, data)
        samples, escalation = keeper.judge(frame, result, random.random(), clock.new_id)
        return [*samples, *([escalation] if escalation else [])]

    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox(Path(folder) / "outbox.sqlite", 256_000_000, "bench")
        waiting: list[object] = []

        def committed(number: int, data: bytes) -> None:
            waiting.extend(judged(number, data))
            if number % COMMIT_EVERY == 0:
                lots = {"telemetry": [i for i in waiting if hasattr(i, "metric")]}
                ups = [i for i in waiting if not hasattr(i, "metric")]
                outbox.accept(
                    [RowBatch(stream="telemetry", items=lots["telemetry"]), RowBatch(stream="escalation", items=ups)],
                    "synced",
                )
                waiting.clear()

        took = {
            "bare session": timed(frames, bare_session()),
            "runner": timed(frames, lambda _number, frame: runner.run((8, 8), frame)),
            "child": timed(frames, child.answer),
            "child + gate (judged)": timed(frames, judged),
            "child + gate + outbox (committed)": timed(frames, committed),
        }
        outbox.close()
    child.end()
    rows = []
    bare, bare_median = sum(took["bare session"]) / len(frames), percentiles(took["bare session"])[0]
    for name, values in took.items():
        (median, p99), mean = percentiles(values), sum(values) / len(values)
        figures = (
            ("mean", mean, "us"),
            ("median", median, "us"),
            ("p99", p99, "us"),
            ("added, mean", mean - bare, "us"),
            ("added, median", median - bare_median, "us"),
        )
        rows += [Row("8x8 digits, INT8 edge model", name, metric, value, unit) for metric, value, unit in figures]
    publish("frames", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
