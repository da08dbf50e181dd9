"""The few CUDA functions that the runner needs, from `cuda-bindings` or, where that is missing, from libcudart.

Both have the functions of the CUDA runtime and return (error, values ...). A device that is lost raises DeviceLost.
"""

from __future__ import annotations

import ctypes
import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.models import DeviceLost
from shared.errors import ModelError

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
MODULES = ("cuda.bindings.runtime", "cuda.cudart")
LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_OUT = {
    "cudaGetDeviceCount": ctypes.c_int, "cudaMalloc": ctypes.c_void_p, "cudaMallocHost": ctypes.c_void_p,
    "cudaStreamCreate": ctypes.c_void_p, "cudaStreamEndCapture": ctypes.c_void_p,
    "cudaGraphInstantiate": ctypes.c_void_p,
}  # fmt: skip
"""Functions with one result; it is their first parameter, or for EndCapture the last."""


class CtypesRuntime:
    """libcudart with the calling convention of cuda-bindings."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=HOST_TO_DEVICE, cudaMemcpyDeviceToHost=DEVICE_TO_HOST)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorName.restype = ctypes.c_char_p

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        kind = _OUT.get(name)
        return lambda *args: self._call(function, name, kind, args)

    @staticmethod
    def _call(function: Any, name: str, kind: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        plain = [ctypes.c_void_p(arg) if isinstance(arg, int) and arg > 1 << 20 else arg for arg in args]
        if name in {"cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync"}:
            plain = [ctypes.c_size_t(arg) if isinstance(arg, int) else arg for arg in plain]
        if kind is None:
            return (int(function(*plain)),)
        out = kind()
        last = name == "cudaStreamEndCapture"
        error = function(*plain, ctypes.byref(out)) if last else function(ctypes.byref(out), *plain)
        return int(error), out.value

    def cudaGetErrorName(self, error: int) -> tuple[int, bytes]:  # noqa: N802 - CUDA's name
        return 0, self._library.cudaGetErrorName(int(error)) or b""

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:  # noqa: N802 - CUDA's name
        """Name and compute capability; the structure begins with the name (256 bytes)."""
        buffer = ctypes.create_string_buffer(1 << 14)
        error = int(self._library.cudaGetDeviceProperties(buffer, device))
        found = [ctypes.c_int(), ctypes.c_int()]
        for value, attribute in zip(found, (75, 76), strict=True):
            error = error or int(self._library.cudaDeviceGetAttribute(ctypes.byref(value), attribute, device))
        return error, SimpleNamespace(name=buffer.raw[:256].split(b"\0")[0], major=found[0].value, minor=found[1].value)


def load_runtime() -> Any:
    """The CUDA runtime; raises ModelError when there is none."""
    reasons = []
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a half installed package raises what it likes
            reasons.append(f"{name}: {error}")
    for library in LIBRARIES:
        try:
            return CtypesRuntime(ctypes.CDLL(library))
        except OSError as error:
            reasons.append(str(error))
    raise ModelError(f"CUDA is not there: install cuda-bindings or the CUDA runtime ({'; '.join(reasons)[:400]})")


class Cuda:
    """Device 0. Every method raises ModelError or, when the device can no longer be used, DeviceLost."""

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        count = self._call("cudaGetDeviceCount", first=True)
        if not count:
            raise ModelError("CUDA finds no device")
        properties = self._call("cudaGetDeviceProperties", 0, first=True)
        name = properties.name
        self.device_name = (name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0")
        self.capability = f"sm_{properties.major}{properties.minor}"

    def _call(self, name: str, *args: Any, first: bool = False) -> Any:
        error, *values = getattr(self._cuda, name)(*args)
        if int(error):
            text = self._cuda.cudaGetErrorName(error)[1]
            shown = text.decode() if isinstance(text, bytes) else str(text)
            reason = f"CUDA: {name}: {shown or int(error)}"
            raise ModelError(reason) if first or name in {"cudaMalloc", "cudaMallocHost"} else DeviceLost(reason)
        return values[0] if values else None

    def malloc(self, size: int) -> int:
        """Device memory."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Free device memory."""
        self._call("cudaFree", address)

    def pinned(self, size: int) -> tuple[int, NDArray[np.uint8]]:
        """Page-locked host memory and a view of it: copies from it do not block."""
        address = int(self._call("cudaMallocHost", size))
        buffer = (ctypes.c_uint8 * size).from_address(address)
        return address, np.ctypeslib.as_array(buffer)

    def free_pinned(self, address: int) -> None:
        """Free page-locked memory."""
        self._call("cudaFreeHost", address)

    def stream(self) -> Any:
        """A new stream."""
        return self._call("cudaStreamCreate")

    def to_device(self, device: int, host: int, size: int, stream: Any) -> None:
        """Copy without waiting."""
        self._call("cudaMemcpyAsync", device, host, size, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def to_host(self, host: int, device: int, size: int, stream: Any) -> None:
        """Copy without waiting."""
        self._call("cudaMemcpyAsync", host, device, size, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def synchronize(self, stream: Any) -> None:
        """Wait until all work of the stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: Any) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def begin_capture(self, stream: Any) -> None:
        """Record the stream's work instead of running it."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """The recorded work as a graph that can be launched."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """Run a graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Destroy a graph."""
        self._call("cudaGraphExecDestroy", graph)


def load_cuda() -> Cuda:
    """The first CUDA device; raises ModelError when there is none."""
    return Cuda(load_runtime())
