"""TensorRT's and CUDA's Python bindings, simulated on the CPU by ONNX Runtime, with the rules of the real ones.

What the documentation calls undefined or an error is an error here: addresses that are not set, not allocated, too
small or on the wrong side; shapes outside of the profile; a free input without a profile; an engine of another version
or device; copies whose host memory is not page-locked; results read before the stream was synchronized (the work is
only done then); a graph launched after the shapes of its context have changed; memory that is freed twice or never.

`make_tensorrt(version)` and `make_cuda()` return modules; `install(home)` writes packages for child processes.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort


class RuleBroken(BaseException):
    """The caller broke a rule of the API. Not an Exception, so that nobody catches it by accident."""


def rule(holds: bool, text: str) -> None:
    if not holds:
        raise RuleBroken(text)


class Device:
    """Memory and streams of the simulated GPU. `lost` makes every call fail; `free_bytes` limits its memory."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, SimpleNamespace] = {}
        self.graphs: dict[int, Any] = {}
        self.lost = False
        self.free_bytes = 1 << 30
        self.capturable = True
        self.launches = 0
        self._last = 1 << 21

    def new(self) -> int:
        self._last += 64
        return self._last

    def leaks(self) -> list[str]:
        kinds = {"device memory": self.memory, "pinned": self.pinned, "streams": self.streams, "graphs": self.graphs}
        return [kind for kind, table in kinds.items() if table]

    def within(self, table: dict[int, Any], address: int, size: int, what: str) -> Any:
        rule(address in table, f"{what} {address} is not allocated")
        rule(ctypes.sizeof(table[address]) >= size, f"{what} holds {ctypes.sizeof(table[address])} bytes, not {size}")
        return table[address]


def make_cuda(device: Device) -> Any:
    """A module like cuda.bindings.runtime."""

    class Error(IntEnum):
        cudaSuccess = 0  # noqa: N815 - CUDA's names
        cudaErrorMemoryAllocation = 2  # noqa: N815
        cudaErrorDevicesUnavailable = 46  # noqa: N815
        cudaErrorStreamCaptureInvalidated = 901  # noqa: N815

    def api(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        def call(*args: Any) -> tuple[Any, ...]:
            if device.lost:
                return (Error.cudaErrorDevicesUnavailable, None)
            found = function(*args)
            if isinstance(found, Error):
                return (found, None)
            return (Error.cudaSuccess,) if found is None else (Error.cudaSuccess, found)

        return call

    def stream_of(handle: Any) -> SimpleNamespace:
        rule(int(handle) in device.streams, f"stream {handle} does not exist")
        return device.streams[int(handle)]

    def malloc(size: int) -> Any:
        used = sum(ctypes.sizeof(block) for block in device.memory.values())
        if used + size > device.free_bytes:
            return Error.cudaErrorMemoryAllocation
        address = device.new()
        device.memory[address] = (ctypes.c_uint8 * size)()
        return address

    def free(address: int) -> None:
        rule(address in device.memory, "device memory is freed that is not allocated")
        del device.memory[address]

    def malloc_host(size: int) -> int:
        block = (ctypes.c_uint8 * size)()
        device.pinned[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free_host(address: int) -> None:
        rule(address in device.pinned, "page-locked memory is freed that is not allocated")
        del device.pinned[address]

    def memcpy(target: int, source: int, size: int, kind: int, stream: Any) -> None:
        to_device = kind == 1
        host, gpu = (source, target) if to_device else (target, source)
        block = device.within(device.pinned, host, size, "host memory (not page-locked?)")
        device.within(device.memory, gpu, size, "device memory")

        def copy() -> None:
            there = device.within(device.memory, gpu, size, "device memory, freed before the copy,")
            if to_device:
                ctypes.memmove(there, block, size)
            else:
                ctypes.memmove(block, there, size)

        stream_of(stream).work.append(copy)

    def stream_create() -> int:
        handle = device.new()
        device.streams[handle] = SimpleNamespace(work=[], capturing=False, broken=False, states=[])
        return handle

    def stream_destroy(handle: Any) -> None:
        stream_of(handle)
        del device.streams[int(handle)]

    def synchronize(handle: Any) -> None:
        stream = stream_of(handle)
        rule(not stream.capturing, "a stream is synchronized while it is captured")
        work, stream.work = stream.work, []
        for step in work:
            step()

    def begin(handle: Any, _mode: Any) -> None:
        stream = stream_of(handle)
        rule(not stream.work, "a capture begins on a stream with work")
        stream.capturing, stream.states = True, []

    def end(handle: Any) -> Any:
        stream = stream_of(handle)
        rule(stream.capturing, "a capture ends that was not begun")
        stream.capturing = False
        work, stream.work = stream.work, []
        if stream.broken:
            return Error.cudaErrorStreamCaptureInvalidated
        graph = device.new()
        device.graphs[graph] = (work, list(stream.states))
        return graph

    def instantiate(graph: Any, _flags: int) -> int:
        rule(graph in device.graphs, "a graph that does not exist is instantiated")
        executable = device.new()
        device.graphs[executable] = device.graphs[graph]
        return executable

    def destroy_graph(graph: Any) -> None:
        rule(graph in device.graphs, "a graph that does not exist is destroyed")
        del device.graphs[graph]

    def launch(graph: Any, handle: Any) -> None:
        rule(graph in device.graphs, "a graph that does not exist is launched")
        work, states = device.graphs[graph]
        for context, state in states:
            rule(context.state() == state, "the shapes or addresses of a graph's context have changed since")
        device.launches += 1
        stream_of(handle).work += work

    def properties(_index: int) -> Any:
        return SimpleNamespace(name=b"Simulated GPU\0\0", major=8, minor=7)

    return SimpleNamespace(
        cudaMemcpyKind=SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2),
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal=1),
        cudaGetErrorName=lambda error: (Error.cudaSuccess, Error(error).name.encode()),
        cudaGetDeviceCount=api(lambda: 1), cudaGetDeviceProperties=api(properties), cudaMalloc=api(malloc),
        cudaFree=api(free), cudaMallocHost=api(malloc_host), cudaFreeHost=api(free_host), cudaMemcpyAsync=api(memcpy),
        cudaStreamCreate=api(stream_create), cudaStreamDestroy=api(stream_destroy),
        cudaStreamSynchronize=api(synchronize), cudaStreamBeginCapture=api(begin), cudaStreamEndCapture=api(end),
        cudaGraphInstantiate=api(instantiate), cudaGraphDestroy=api(destroy_graph), cudaGraphLaunch=api(launch),
        cudaGraphExecDestroy=api(destroy_graph),
    )  # fmt: skip


class DataType(IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


_NUMPY = {
    DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT8: np.int8, DataType.INT32: np.int32,
    DataType.BOOL: np.bool_, DataType.UINT8: np.uint8, DataType.INT64: np.int64,
}  # fmt: skip


def _kind(tensor: Any) -> DataType:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type)
    return next(kind for kind, found in _NUMPY.items() if np.dtype(found) == dtype)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(side.dim_value if side.HasField("dim_value") else -1 for side in tensor.type.tensor_type.shape.dim)


def make_tensorrt(version: str, device: Device, build_s: float = 0.0) -> Any:
    """A module like tensorrt of `version`."""
    major = int(version.partition(".")[0])

    class Severity(IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def __init__(self) -> None:
            self.ready = True

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class IProgressMonitor:
        def __init__(self) -> None:
            self.ready = True

    class NetworkDefinitionCreationFlag(IntEnum):
        EXPLICIT_BATCH = 0
        STRONGLY_TYPED = 1

    flags = ["VERSION_COMPATIBLE", "TF32", "EXCLUDE_LEAN_RUNTIME"] + (["FP16", "INT8"] if major == 10 else [])

    class Network:
        def __init__(self, strong: bool) -> None:
            self.strong, self.model = strong, b""
            self.tensors: list[Any] = []

        @property
        def num_inputs(self) -> int:
            return len(self.tensors)

        def get_input(self, place: int) -> Any:
            return self.tensors[place]

    class OnnxParser:
        def __init__(self, network: Network, logger: Any) -> None:
            rule(getattr(logger, "ready", False), "ILogger.__init__ was not called")
            self._network, self._errors = network, list[str]()

        def parse(self, model: bytes) -> bool:
            try:
                loaded = onnx.load_model_from_string(model)
                onnx.checker.check_model(loaded)
            except Exception as error:  # noqa: BLE001
                self._errors.append(f"In node -1 (parse): {type(error).__name__}")
                return False
            self._network.model = model
            self._network.tensors = [
                SimpleNamespace(name=one.name, shape=_shape(one), kind=_kind(one)) for one in loaded.graph.input
            ]
            return True

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, place: int) -> str:
            return self._errors[place]

    class Profile:
        def __init__(self) -> None:
            self.ranges: dict[str, Any] = {}

        def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
            rule(all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)), "min <= opt <= max is broken")
            self.ranges[name] = (tuple(low), tuple(high))

    class TimingCache:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def serialize(self) -> bytes:
            return f"timing {version} ".encode() + b"x" * (1 + self.content.count(b"x"))

    class Config:
        def __init__(self) -> None:
            self.profiles: list[Profile] = []
            self.flags: set[str] = set()
            self.progress_monitor: Any = None
            self.cache: TimingCache | None = None

        def add_optimization_profile(self, profile: Profile) -> int:
            self.profiles.append(profile)
            return len(self.profiles) - 1

        def set_flag(self, flag: Any) -> None:
            self.flags.add(flag.name)

        def create_timing_cache(self, content: bytes) -> TimingCache:
            return TimingCache(content)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            if cache.content and not cache.content.startswith(f"timing {version} ".encode()) and not ignore_mismatch:
                return False
            self.cache = cache
            return True

    class Builder:
        def __init__(self, logger: Any) -> None:
            rule(getattr(logger, "ready", False), "ILogger.__init__ was not called")
            self._logger = logger

        def create_network(self, wanted: int = 0) -> Network:
            strong = bool(wanted & (1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            rule(major > 10 or strong, "a weakly typed network with Q/DQ needs the flag INT8")
            return Network(strong or major > 10)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            rule(bool(network.model), "a network is built that was not parsed")
            ranges = config.profiles[0].ranges if config.profiles else {}
            free = [one.name for one in network.tensors if -1 in one.shape]
            if missing := [name for name in free if name not in ranges]:
                self._logger.log(Severity.ERROR, f"Network has dynamic inputs without a profile: {missing}")
                return None
            if monitor := config.progress_monitor:
                rule(getattr(monitor, "ready", False), "IProgressMonitor.__init__ was not called")
                monitor.phase_start("Building Engine", None, 4)
                monitor.phase_start("Timing", "Building Engine", 2)
                for step in range(4):
                    time.sleep(build_s / 4)
                    if not monitor.step_complete("Timing", step) or not monitor.step_complete("Building Engine", step):
                        return None
                monitor.phase_finish("Timing")
                monitor.phase_finish("Building Engine")
            head = {"version": version, "ranges": ranges, "compatible": "VERSION_COMPATIBLE" in config.flags}
            return json.dumps(head).encode() + b"\n" + network.model

    class TensorIOMode(IntEnum):
        NONE, INPUT, OUTPUT = range(3)

    class Engine:
        def __init__(self, head: dict[str, Any], model: bytes) -> None:
            self.ranges = head["ranges"]
            self.graph = onnx.load_model_from_string(model).graph
            self.session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
            self.tensors = {one.name: one for one in (*self.graph.input, *self.graph.output)}
            self.inputs = [one.name for one in self.graph.input]

        @property
        def num_io_tensors(self) -> int:
            return len(self.tensors)

        def get_tensor_name(self, place: int) -> str:
            return list(self.tensors)[place]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return _shape(self.tensors[name])

        def get_tensor_dtype(self, name: str) -> DataType:
            return _kind(self.tensors[name])

        def create_execution_context(self) -> Context:
            return Context(self)

    class Context:
        def __init__(self, engine: Engine) -> None:
            self._engine = engine
            self._addresses: dict[str, int] = {}
            self._shapes = {name: shape for name in engine.inputs if -1 not in (shape := engine.get_tensor_shape(name))}
            self._ran = False

        def state(self) -> Any:
            return dict(self._shapes), dict(self._addresses)

        def set_input_shape(self, name: str, shape: Any) -> bool:
            low, high = self._engine.ranges.get(name) or (self._engine.get_tensor_shape(name),) * 2
            if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                return False
            self._shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name: str, address: int) -> bool:
            rule(name in self._engine.tensors, f"there is no tensor {name}")
            rule(isinstance(address, int) and address > 0, "an address is a positive int")
            self._addresses[name] = address
            return True

        def _sized(self, name: str, shape: Any) -> int:
            size = int(np.prod(shape)) * np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)]).itemsize
            rule(name in self._addresses, f"the address of {name} is not set")
            device.within(device.memory, self._addresses[name], size, f"the memory of {name}")
            return size

        def execute_async_v3(self, handle: int) -> bool:
            rule(isinstance(handle, int), "the stream is given as an int")
            if device.lost:
                return False
            for name in self._engine.inputs:
                rule(name in self._shapes, f"the shape of {name} is not set")
                self._sized(name, self._shapes[name])
            rule(set(self._addresses) == set(self._engine.tensors), "the addresses of all tensors must be set")
            stream = device.streams[handle]
            if stream.capturing:
                rule(self._ran, "a capture needs a run before it, in which TensorRT allocates")
                stream.states.append((self, self.state()))
                if not device.capturable:
                    stream.broken = True
                    return False
            self._ran = True
            shapes = dict(self._shapes)
            stream.work.append(lambda: self._compute(shapes))
            return True

        def _compute(self, shapes: dict[str, Any]) -> None:
            feeds = {}
            for name, shape in shapes.items():
                block = device.within(device.memory, self._addresses[name], self._sized(name, shape), name)
                dtype = _NUMPY[self._engine.get_tensor_dtype(name)]
                feeds[name] = np.frombuffer(block, dtype, int(np.prod(shape))).reshape(shape)
            for one, value in zip(self._engine.graph.output, self._engine.session.run(None, feeds), strict=True):
                size = self._sized(one.name, value.shape)
                ctypes.memmove(device.memory[self._addresses[one.name]], np.ascontiguousarray(value).tobytes(), size)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            rule(getattr(logger, "ready", False), "ILogger.__init__ was not called")
            self._logger = logger
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            try:
                head_text, _, model = bytes(plan).partition(b"\n")
                head = json.loads(head_text)
            except ValueError:
                self._logger.log(Severity.ERROR, "Serialization assertion failed: magic tag does not match")
                return None
            if head["version"] != version and not (head["compatible"] and self.engine_host_code_allowed):
                self._logger.log(Severity.ERROR, f"The engine plan file was generated by {head['version']}")
                return None
            return Engine(head, model)

    return SimpleNamespace(
        __name__="tensorrt", __version__=version, ILogger=ILogger, IProgressMonitor=IProgressMonitor, Builder=Builder,
        OnnxParser=OnnxParser, Runtime=Runtime, TensorIOMode=TensorIOMode, DataType=DataType,
        NetworkDefinitionCreationFlag=NetworkDefinitionCreationFlag, nptype=lambda kind: _NUMPY[kind],
        BuilderFlag=IntEnum("BuilderFlag", flags),
    )  # fmt: skip


def use(monkeypatch: Any, version: str, device: Device) -> None:
    """Have this process import the simulated bindings."""
    runtime = make_cuda(device)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version, device))


def install(home: Path, version: str, build_s: float = 0.5) -> str:
    """Packages for child processes; returns the folders for PYTHONPATH."""
    package = home / "cuda" / "bindings"
    package.mkdir(parents=True)
    (home / "cuda" / "__init__.py").touch()
    (package / "__init__.py").touch()
    shared = "from simulators.tensorrt_bindings import DEVICE, make_cuda, make_tensorrt\n"
    (package / "runtime.py").write_text(f"{shared}globals().update(vars(make_cuda(DEVICE)))\n")
    body = f"globals().update(vars(make_tensorrt({version!r}, DEVICE, {build_s})))\n"
    (home / "tensorrt.py").write_text(shared + body)
    return f"{home}:{Path(__file__).parents[1]}"


DEVICE = Device()
