"""Measures what the agent adds to a model: the same ONNX file in a bare `InferenceSession.run` and through the agent.

    python -m benchmarks.models [--seconds 3] [--json FILE] [--peer-python PYTHON]

Frames are 224 x 224 x 3, uint8. bare: the session alone, its tensor is ready. agent: stream, shared memory, inference
process, task, gate, drift features, samples, outbox with a FULL commit every second; all of the agent but the link.
one at a time: a frame is given when the one before is answered. saturated: as many as the agent takes at once.
device: a real agent process with a collector of 20 frames/s. On a busy machine compare medians and ratios.
With --peer-python, the Python of an environment with MLServer (`benchmarks.model_peer`), the same model and frames are
served by it too, in turns with the agent, and nothing else is measured.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import psutil
from onnx import TensorProto, helper, numpy_helper

from benchmarks.model_peer import Peer
from benchmarks.report import Row, arguments, percentiles, publish
from cloud_hub.models.writer import make_manifest, write_bundle
from edge_agent import clock
from edge_agent.collectors import Frame
from edge_agent.config import ModelTable
from edge_agent.models.frame_ring import FrameWriter
from edge_agent.models.pool import EnginePool
from edge_agent.models.stream import ModelStream
from edge_agent.models.wire import ModelSpec
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.pipeline.pipeline import Pipeline
from edge_agent.runtime.event_loop import EventLoop
from edge_agent.store.disk import Disk
from edge_agent.store.outbox import Outbox
from edge_agent.store.statestore import StateStore
from edge_agent.twin.core.document import Deferred
from shared.models.gate import Gate
from shared.models.manifest import Preprocess, TensorSpec, Variant

SIDE = 224
NAMES = ["dark", "bright"]


# -- models and their bundles ------------------------------------------------------------------------


def network(layers: int, width: int, seed: int, stride: int = 8) -> bytes:
    """uint8 [n, 224, 224, 3] -> two probabilities: every `stride`-th pixel, then `layers` convolutions."""
    rng = np.random.default_rng(seed)
    edges = {"from": [0, 0], "to": [SIDE, SIDE], "axes": [1, 2], "steps": [stride, stride]}
    weights = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in edges.items()]
    nodes = [
        helper.make_node("Slice", ["image", *edges], ["few"]),
        helper.make_node("Cast", ["few"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["x"], ["c"], perm=[0, 3, 1, 2]),
    ]
    last, channels = "c", 3
    for layer in range(layers):
        kernel = rng.normal(0, 0.1, (width, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [f"y{layer}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"y{layer}"], [f"z{layer}"]))
        last, channels = f"z{layer}", width
    head = rng.normal(0, 0.1, (channels, 2)).astype(np.float32)
    weights.append(numpy_helper.from_array(head, "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def bundle(folder: Path, model: bytes) -> Path:
    """A bundle of the model."""
    files = {"model.onnx": model}
    manifest = make_manifest(
        files, name=folder.name, version="1", task="classification", labels=NAMES,
        inputs=[TensorSpec(name="image", shape=(SIDE, SIDE, 3), dtype="uint8", layout="NHWC")],
        outputs=[TensorSpec(name="probabilities", shape=(2,))], preprocess=Preprocess(color="rgb"),
        variants={"fp32": Variant(file="model.onnx", format="onnx", precision="fp32", runners=["onnx"])},
    )  # fmt: skip
    write_bundle(folder, manifest, files)
    return folder


def session(model: bytes) -> Callable[[np.ndarray], Any]:
    """The bare session, with the options that the runner has."""
    choices = ort.SessionOptions()
    choices.intra_op_num_threads = 1
    choices.add_session_config_entry("session.intra_op.allow_spinning", "0")
    opened = ort.InferenceSession(model, choices, providers=["CPUExecutionProvider"])
    return lambda tensor: opened.run(["probabilities"], {"image": tensor})


# -- the agent ------------------------------------------------------------------------------------------


class Device:
    """The agent's parts, without the link: streams, pipeline, outbox."""

    def __init__(self, folder: Path) -> None:
        self.loop = EventLoop()
        disk = Disk(folder)
        self._outbox = Outbox(folder / "outbox.sqlite", 256_000_000, "bench", disk)
        self.pipeline = Pipeline(LimitRules(), self._outbox, StateStore(folder / "kept.sqlite", disk), lambda: None)
        self.pool = EnginePool(self.loop.post)
        self.streams: list[ModelStream] = []
        self.loop.every(1.0, self._tick)
        self.loop.every(1.0, self.pipeline.commit)

    def add(self, folder: Path, name: str, **changes: Any) -> ModelStream:
        """A stream whose gate keeps every result."""
        spec = ModelSpec(bundle=str(folder), **changes)
        table = ModelTable(name=name, bundle=str(folder), frames="camera")
        stream = ModelStream(table, spec, self.pool, self.pipeline.add)
        self.streams.append(stream)
        stream.start()
        self.until(lambda: stream.state["state"] == "running")
        stream.gatekeeper.use(
            Gate(digest=stream.state["digest"], alpha=0.5, delta=0.5, n=1, k=1, margin=0.0, audit=0.0)
        )
        return stream

    def _tick(self) -> None:
        self.pool.tick(clock.monotonic_s())
        for stream in self.streams:
            stream.tick(clock.now_us())

    def until(self, condition: Callable[[], bool]) -> None:
        """Run until something is so."""

        done = False

        def look() -> None:
            nonlocal done
            if not done and condition():
                done = True
                self.loop.stop()

        timer = self.loop.every(0.002, look)
        self.loop.run()
        timer.period_s = 3600.0
        timer.task = lambda: None

    def close(self) -> None:
        """End all."""
        for stream in self.streams:
            stream.stop()
        self.pool.stop()
        self._outbox.close()


class Load:
    """Feeds streams: each answer is followed by the next frame, so that `depth` frames of each are on their way."""

    def __init__(self, device: Device, streams: list[ModelStream], frames: list[bytes], depth: int) -> None:
        self._device, self._frames, self._depth = device, frames, depth
        self.times: list[float] = []
        self.answers: list[float] = []
        self.number = 0
        self.running = True
        self._given: dict[int, float] = {}
        for stream in streams:
            self._follow(stream)

    def _follow(self, stream: ModelStream) -> None:
        before = stream._judge

        def judge(item: Any, result: Any) -> None:
            before(item, result)
            now = time.perf_counter()
            self.answers.append(now)
            self.times.append(now - self._given.pop(item.number))
            if self.running:
                self._give(stream)

        stream._judge = judge  # type: ignore[method-assign]
        for _ in range(self._depth):
            self._give(stream)

    def _give(self, stream: ModelStream) -> None:
        self.number += 1
        number, data = self.number, self._frames[self.number % len(self._frames)]
        now_us = clock.now_us()
        self._given[number] = 0.0  # on its way: the end of the run waits for it

        def frame() -> None:
            self._given[number] = time.perf_counter()
            stream.frame(
                Frame(source="camera", number=number, t_us=now_us, shape=(SIDE, SIDE, 3), data=data, color="rgb")
            )

        self._device.loop.post(frame)

    def run(self, seconds: float) -> tuple[float, float, float]:
        """(frames a second, median and 99th percentile in us of frame to sample); the first tenth does not count."""
        end = time.perf_counter() + seconds
        self._device.until(lambda: time.perf_counter() > end)
        self.running = False
        self._device.until(lambda: not self._given)
        skip = len(self.times) // 10
        rate = (len(self.answers) - skip - 1) / (self.answers[-1] - self.answers[skip])
        median, p99 = percentiles([value * 1e6 for value in self.times[skip:]])
        return rate, median, p99


# -- parts --------------------------------------------------------------------------------------------------


def bare(model: bytes, frames: list[bytes], seconds: float) -> tuple[float, float]:
    """(frames a second, median us) of the session alone."""
    run, tensors = session(model), [np.frombuffer(data, np.uint8).reshape(1, SIDE, SIDE, 3) for data in frames]
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        run(tensors[len(times) % len(tensors)])
        times.append(time.perf_counter() - began)
    times = times[len(times) // 10 :]
    return 1 / statistics.mean(times), statistics.median(times) * 1e6


def tuned(target_us: float, seed: int, frames: list[bytes]) -> bytes:
    """A model whose bare run takes about `target_us`."""
    best, distance = b"", float("inf")
    sizes = [(0, 8), (1, 4), (1, 8), (1, 16), (2, 16), (3, 24), (4, 32), (6, 32), (6, 48), (8, 48), (8, 64), (12, 64)]
    for layers, width in sizes:
        model = network(layers, width, seed)
        _, median = bare(model, frames, 0.15)
        if abs(median - target_us) < distance:
            best, distance = model, abs(median - target_us)
    return best


def overhead(device: Device, name: str, folder: Path, model: bytes, frames: list[bytes], seconds: float) -> list[Row]:
    """One model: bare, one at a time, saturated; alternating, three times, medians."""
    stream = device.add(folder, name.replace(" ", "-").replace(".", ""))
    found: dict[str, list[float]] = {}
    for _ in range(3):
        used = time.process_time()
        rate, median = bare(model, frames, seconds)
        found.setdefault("bare processor", []).append((time.process_time() - used) / rate / seconds * 1e6)
        found.setdefault("bare rate", []).append(rate)
        found.setdefault("bare median", []).append(median)
        judge = stream._judge
        for method, depth in (("one at a time", 1), ("saturated", 4)):
            load, before = Load(device, [stream], frames, depth), _used(stream)
            rate, median, p99 = load.run(seconds)
            stream._judge = judge  # type: ignore[method-assign]
            for key, one, other in zip(("agent", "process"), _used(stream), before, strict=True):
                found.setdefault(f"{method} {key}", []).append((one - other) / load.number * 1e6)
            for key, value in (("rate", rate), ("median", median), ("p99", p99)):
                found.setdefault(f"{method} {key}", []).append(value)
    middle = {key: statistics.median(values) for key, values in found.items()}
    ratios = [one / other for one, other in zip(found["saturated rate"], found["bare rate"], strict=True)]
    added = [1e6 / one - other for one, other in zip(found["saturated rate"], found["bare median"], strict=True)]
    rows = [
        Row(name, "bare", "frames a second", middle["bare rate"], "1/s"),
        Row(name, "bare", "median", middle["bare median"], "us"),
        Row(name, "bare", "processor time a frame", middle["bare processor"], "us"),
        Row(name, "agent, saturated", "processor time, agent", middle["saturated agent"], "us"),
        Row(name, "agent, saturated", "processor time, child", middle["saturated process"], "us"),
        Row(name, "agent, saturated", "frames a second", middle["saturated rate"], "1/s"),
        Row(name, "agent, saturated", "share of bare", statistics.median(ratios), "1"),
        Row(name, "agent, saturated", "added a frame", statistics.median(added), "us"),
        Row(name, "agent, one at a time", "median", middle["one at a time median"], "us"),
        Row(name, "agent, one at a time", "p99", middle["one at a time p99"], "us"),
        Row(name, "agent, one at a time", "added", middle["one at a time median"] - middle["bare median"], "us"),
    ]
    device.streams.remove(stream)
    stream.model._seat.leave()
    device.pool.tick(clock.monotonic_s())
    return rows


def against_peer(
    folder: Path, python: Path, name: str, model: bytes, frames: list[bytes], seconds: float
) -> list[Row]:  # fmt: skip
    """One model: bare, the agent, MLServer with and without a process for the model; in turns, three times, medians."""
    (folder / "store").mkdir(parents=True)
    device = Device(folder / "store")
    stream = device.add(bundle(folder / "bundle", model), "peer")
    stacked = np.stack([np.frombuffer(data, np.uint8).reshape(SIDE, SIDE, 3) for data in frames])
    peers = {
        f"MLServer, {text}": Peer(folder / f"peer{workers}", python, model, SIDE, stacked, workers)
        for text, workers in (("model in a process", 1), ("one process", 0))
    }
    found: dict[tuple[str, str], list[float]] = {}
    try:
        for peer in peers.values():
            peer.wait()
            expected = [session(model)(frame[None])[0][0] for frame in stacked]
            assert np.allclose(expected, peer.answers(), atol=1e-5), "the peer answers otherwise"
        for _ in range(3):
            rate, median = bare(model, frames, seconds)
            found.setdefault(("bare", "saturated rate"), []).append(rate)
            found.setdefault(("bare", "one at a time median"), []).append(median)
            judge = stream._judge
            for method, depth in (("one at a time", 1), ("saturated", 4)):
                rate, median, _ = Load(device, [stream], frames, depth).run(seconds)
                stream._judge = judge  # type: ignore[method-assign]
                found.setdefault(("agent", f"{method} rate"), []).append(rate)
                found.setdefault(("agent", f"{method} median"), []).append(median)
                for key, peer in peers.items():
                    times, rate = peer.measure(seconds, depth)
                    found.setdefault((key, f"{method} rate"), []).append(rate)
                    found.setdefault((key, f"{method} median"), []).append(statistics.median(times) * 1e6)
    finally:
        for peer in peers.values():
            peer.close()
        device.close()
    rows = [
        Row(name, key, metric, statistics.median(values), "us" if metric.endswith("median") else "1/s")
        for (key, metric), values in sorted(found.items())
    ]
    for key in peers:
        for metric, ours, theirs in (
            ("one at a time, time of agent / peer", "one at a time median", "one at a time median"),
            ("saturated, rate of agent / peer", "saturated rate", "saturated rate"),
        ):
            pairs = zip(found["agent", ours], found[key, theirs], strict=True)
            rows.append(Row(name, key, metric, statistics.median(a / b for a, b in pairs), "1"))
    return rows


def _used(stream: ModelStream) -> tuple[float, float]:
    """Processor seconds of this process and of the inference process; not disturbed by other programs."""
    return time.process_time(), sum(psutil.Process(stream.state["pid"]).cpu_times()[:2])


def batching(device: Device, folder: Path, frames: list[bytes], seconds: float) -> list[Row]:
    """Four streams of one model, with and without batches."""
    rows = []
    for batch in (1, 4):
        streams = [device.add(folder, f"s{batch}-{n}", batch=batch, max_wait_ms=2.0) for n in range(4)]
        rate, median, p99 = Load(device, streams, frames, 2).run(seconds)
        method = "batches up to 4" if batch > 1 else "no batches"
        rows += [
            Row("four streams, one model", method, "frames a second, all", rate, "1/s"),
            Row("four streams, one model", method, "median", median, "us"),
            Row("four streams, one model", method, "p99", p99, "us"),
        ]
        for stream in streams:
            device.streams.remove(stream)
            stream.model._seat.leave()
        device.pool.tick(clock.monotonic_s())
    return rows


def swap(device: Device, old: Path, new: Path, frames: list[bytes]) -> list[Row]:
    """A change of the model under load: time until the new one serves, longest pause, frames without a result."""
    stream = device.add(old, "swap")
    load = Load(device, [stream], frames, 2)
    began = time.perf_counter()
    end = began + 0.5
    device.until(lambda: time.perf_counter() > end)
    began, ended = time.perf_counter(), 0.0
    try:
        stream.model.use({"bundle": str(new)})
    except Deferred:
        device.until(lambda: stream.state["bundle"] == str(new))
        ended = time.perf_counter()
    end = time.perf_counter() + 0.5
    device.until(lambda: time.perf_counter() > end)
    load.running = False
    device.until(lambda: not load._given)
    gaps = [after - before for before, after in zip(load.answers, load.answers[1:], strict=False)]
    lost = load.number - len(load.answers)
    rows = [
        Row("change of the model", "while the old one serves", "until the new one serves", ended - began, "s"),
        Row("change of the model", "while the old one serves", "longest pause", max(gaps) * 1e3, "ms"),
        Row("change of the model", "while the old one serves", "frames without a result", lost, "1"),
    ]
    device.streams.remove(stream)
    return rows


def transport(frames: list[bytes]) -> list[Row]:
    """One frame from process to process: shared memory of two kinds, and a pipe."""
    data, ring = frames[0], FrameWriter()
    segment = shared_memory.SharedMemory(create=True, size=len(data))

    def memfd() -> None:
        ring.release(ring.put(data) or 0)

    def named() -> None:
        assert segment.buf is not None
        segment.buf[: len(data)] = data

    read = (
        "import os, sys\nn, size = 0, int(sys.argv[1])\nwhile b := os.read(0, 1 << 20):\n n += len(b)\n"
        " while n >= size:\n  n -= size; os.write(1, b'.')\n"
    )
    arguments = [sys.executable, "-c", read, str(len(data))]
    child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    to, back = child.stdin.fileno(), child.stdout.fileno()

    def pipe() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(to, view) :]
        os.read(back, 1)

    rows = []
    for method, send in (("memfd", memfd), ("multiprocessing.shared_memory", named), ("pipe, and back", pipe)):
        times = []
        for _ in range(2000 if send is not pipe else 500):
            began = time.perf_counter()
            send()
            times.append((time.perf_counter() - began) * 1e6)
        rows.append(Row("224x224x3 to a process", method, "median", statistics.median(times), "us"))
    child.stdin.close()
    child.wait()
    child.stdout.close()
    ring.close()
    segment.close()
    segment.unlink()
    return rows


def whole_device(folder: Path, model: Path, seconds: float) -> list[Row]:
    """A real agent process with a camera of 20 frames a second: memory and processor of agent and child."""
    np.save(folder / "frames.npy", np.random.default_rng(1).integers(0, 255, (8, SIDE, SIDE), np.uint8))
    state = folder / "state"
    (folder / "edge.toml").write_text(
        f'[device]\nid = "bench"\nprofile = "x86-64"\nstate_dir = "{state}"\n[link]\naddress = "127.0.0.1:9"\n'
        f'discover = false\n[[collectors]]\nkind = "images"\nname = "camera"\npath = "{folder / "frames.npy"}"\n'
        f'period_s = 0.05\n[[models]]\nname = "m"\nbundle = "{model}"\nframes = "camera"\n'
    )
    command = [sys.executable, "-m", "edge_agent", "run", "--config", str(folder / "edge.toml")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        agent = psutil.Process(process.pid)
        deadline = time.monotonic() + 30
        while not agent.children() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)
        (child,) = agent.children()
        before = {one.pid: sum(one.cpu_times()[:2]) for one in (agent, child)}
        time.sleep(seconds)
        rows = []
        for name, one in (("agent", agent), ("inference process", child)):
            used = (sum(one.cpu_times()[:2]) - before[one.pid]) / seconds * 100
            rows += [
                Row("device, 20 frames a second", name, "resident memory", one.memory_info().rss / 1e6, "MB"),
                Row("device, 20 frames a second", name, "of a core", used, "%"),
            ]
        return rows
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", seconds=2.0, peer_python="")
    rng = np.random.default_rng(options.seed)
    frames = [rng.integers(0, 255, SIDE * SIDE * 3, dtype=np.uint8).tobytes() for _ in range(16)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = (tuned(us, options.seed, frames) for us in (100.0, 2000.0))
        models = {"0.1 ms model": small, "2 ms model": large}
        if options.peer_python:
            python = Path(options.peer_python)
            parts = [
                against_peer(folder / f"p{n}", python, key, model, frames, options.seconds)
                for n, (key, model) in enumerate(models.items())
            ]
            publish("models_peer", options.seed, [row for part in parts for row in part], options.json)
            return
        folders = {key: bundle(folder / f"b{n}", model) for n, (key, model) in enumerate(models.items())}
        again = bundle(folder / "b9", network(2, 16, options.seed + 1))
        rows = transport(frames)
        (folder / "store").mkdir()
        device = Device(folder / "store")
        for key, model in models.items():
            rows += overhead(device, key, folders[key], model, frames, options.seconds)
        rows += batching(device, folders["0.1 ms model"], frames, options.seconds)
        rows += swap(device, folders["2 ms model"], again, frames)
        device.close()
        rows += whole_device(folder, folders["0.1 ms model"], max(5.0, options.seconds))
    publish("models", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
