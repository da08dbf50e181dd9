"""A simulated GPU, and CUDA's Python bindings over it with the rules of the real ones."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any


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
