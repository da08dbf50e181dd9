"""The classes of TensorRT's Python bindings, simulated by ONNX Runtime; used through `tensorrt_bindings`."""

from __future__ import annotations

import ctypes
import json
import time
from dataclasses import dataclass
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from simulators.cuda_bindings import Device, rule


@dataclass(frozen=True)
class Simulation:
    """A TensorRT of `version` on `device`; a build takes `build_s`."""

    version: str
    device: Device
    build_s: float

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    @property
    def timing_head(self) -> bytes:
        return f"timing {self.version} ".encode()


class DataType(IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


NUMPY = {
    DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT8: np.int8, DataType.INT32: np.int32,
    DataType.BOOL: np.bool_, DataType.UINT8: np.uint8, DataType.INT64: np.int64,
}  # fmt: skip


def _kind(tensor: Any) -> DataType:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type)
    return next(kind for kind, found in NUMPY.items() if np.dtype(found) == dtype)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(side.dim_value if side.HasField("dim_value") else -1 for side in tensor.type.tensor_type.shape.dim)


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.ready = True


class IProgressMonitor:
    def __init__(self) -> None:
        self.ready = True


class NetworkDefinitionCreationFlag(IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


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
    def __init__(self, simulation: Simulation, content: bytes) -> None:
        self._simulation, self.content = simulation, content

    def serialize(self) -> bytes:
        return self._simulation.timing_head + b"x" * (1 + self.content.count(b"x"))


class Config:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
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
        return TimingCache(self._simulation, content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.content and not cache.content.startswith(self._simulation.timing_head) and not ignore_mismatch:
            return False
        self.cache = cache
        return True


class Builder:
    def __init__(self, simulation: Simulation, logger: Any) -> None:
        rule(getattr(logger, "ready", False), "ILogger.__init__ was not called")
        self._simulation, self._logger = simulation, logger

    def create_network(self, wanted: int = 0) -> Network:
        strong = bool(wanted & (1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        rule(self._simulation.major > 10 or strong, "a weakly typed network with Q/DQ needs the flag INT8")
        return Network(strong or self._simulation.major > 10)

    def create_builder_config(self) -> Config:
        return Config(self._simulation)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        rule(bool(network.model), "a network is built that was not parsed")
        ranges = config.profiles[0].ranges if config.profiles else {}
        free = [one.name for one in network.tensors if -1 in one.shape]
        if missing := [name for name in free if name not in ranges]:
            self._logger.log(Severity.ERROR, f"Network has dynamic inputs without a profile: {missing}")
            return None
        if config.progress_monitor and not self._report_progress(config.progress_monitor):
            return None
        head = {
            "version": self._simulation.version,
            "ranges": ranges,
            "compatible": "VERSION_COMPATIBLE" in config.flags,
        }
        return json.dumps(head).encode() + b"\n" + network.model

    def _report_progress(self, monitor: Any) -> bool:
        """Whether the build was not cancelled."""
        rule(getattr(monitor, "ready", False), "IProgressMonitor.__init__ was not called")
        monitor.phase_start("Building Engine", None, 4)
        monitor.phase_start("Timing", "Building Engine", 2)
        for step in range(4):
            time.sleep(self._simulation.build_s / 4)
            if not monitor.step_complete("Timing", step) or not monitor.step_complete("Building Engine", step):
                return False
        monitor.phase_finish("Timing")
        monitor.phase_finish("Building Engine")
        return True


class TensorIOMode(IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class Engine:
    def __init__(self, device: Device, head: dict[str, Any], model: bytes) -> None:
        self.device = device
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
        self._engine, self._device = engine, engine.device
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
        size = int(np.prod(shape)) * np.dtype(NUMPY[self._engine.get_tensor_dtype(name)]).itemsize
        rule(name in self._addresses, f"the address of {name} is not set")
        self._device.within(self._device.memory, self._addresses[name], size, f"the memory of {name}")
        return size

    def execute_async_v3(self, handle: int) -> bool:
        rule(isinstance(handle, int), "the stream is given as an int")
        if self._device.lost:
            return False
        for name in self._engine.inputs:
            rule(name in self._shapes, f"the shape of {name} is not set")
            self._sized(name, self._shapes[name])
        rule(set(self._addresses) == set(self._engine.tensors), "the addresses of all tensors must be set")
        stream = self._device.streams[handle]
        if stream.capturing:
            rule(self._ran, "a capture needs a run before it, in which TensorRT allocates")
            stream.states.append((self, self.state()))
            if not self._device.capturable:
                stream.broken = True
                return False
        self._ran = True
        shapes = dict(self._shapes)
        stream.work.append(lambda: self._compute(shapes))
        return True

    def _compute(self, shapes: dict[str, Any]) -> None:
        feeds = {}
        for name, shape in shapes.items():
            block = self._device.within(self._device.memory, self._addresses[name], self._sized(name, shape), name)
            dtype = NUMPY[self._engine.get_tensor_dtype(name)]
            feeds[name] = np.frombuffer(block, dtype, int(np.prod(shape))).reshape(shape)
        for one, value in zip(self._engine.graph.output, self._engine.session.run(None, feeds), strict=True):
            size = self._sized(one.name, value.shape)
            ctypes.memmove(self._device.memory[self._addresses[one.name]], np.ascontiguousarray(value).tobytes(), size)


class Runtime:
    def __init__(self, simulation: Simulation, logger: Any) -> None:
        rule(getattr(logger, "ready", False), "ILogger.__init__ was not called")
        self._simulation, self._logger = simulation, logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        try:
            head_text, _, model = bytes(plan).partition(b"\n")
            head = json.loads(head_text)
        except ValueError:
            self._logger.log(Severity.ERROR, "Serialization assertion failed: magic tag does not match")
            return None
        if head["version"] != self._simulation.version and not (head["compatible"] and self.engine_host_code_allowed):
            self._logger.log(Severity.ERROR, f"The engine plan file was generated by {head['version']}")
            return None
        return Engine(self._simulation.device, head, model)
