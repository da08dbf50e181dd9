"""Runs an engine: page-locked buffers of a fixed size, one stream, and a CUDA graph where the batch is always the same.

The graph holds the copies and the kernels of one batch. A graph must not be used after the shapes of its context have
changed, so there is none where batches of several sizes occur.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.models import DeviceLost, RunnerInfo, RunnerOptions, Tensors
from edge_agent.models.tensorrt.bindings import Bindings
from edge_agent.models.tensorrt.cuda import Cuda
from shared.errors import ModelError
from shared.models.manifest import Manifest


@dataclass(slots=True)
class _Tensor:
    """An input or output: its shape without the batch, and its buffers on device and host."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    host: int
    view: NDArray[np.uint8]

    def bytes_of(self, batch: int) -> int:
        """Bytes of a batch."""
        return batch * math.prod(self.shape) * self.dtype.itemsize

    def array(self, batch: int) -> NDArray[Any]:
        """The host buffer as a batch."""
        return self.view[: self.bytes_of(batch)].view(self.dtype).reshape(batch, *self.shape)


class TensorRTRunner:
    """Runs one engine on the first CUDA device."""

    def __init__(
        self, bindings: Bindings, cuda: Cuda, plan: bytes, manifest: Manifest, variant: str, options: RunnerOptions
    ) -> None:
        self._bindings, self._cuda, self._manifest = bindings, cuda, manifest
        self._precision = manifest.variant(variant).precision
        self._inputs: list[_Tensor] = []
        self._outputs: list[_Tensor] = []
        self._shaped, self._runs, self._closed = 0, 0, False
        self._graph: Any = None
        self._graph_refused = ""
        self._open(plan, options)

    def _open(self, plan: bytes, options: RunnerOptions) -> None:
        trt = self._bindings.trt
        self._runtime = trt.Runtime(self._bindings.logger)
        if options.version_compatible and hasattr(self._runtime, "engine_host_code_allowed"):
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._bindings.failure("cannot load the engine")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._bindings.failure("has not enough device memory for the engine")
        self._stream = self._cuda.stream()
        try:
            self._fixed = self._fixed_batch()
            self._batch = self._fixed or options.batch
            self._allocate()
        except ModelError:
            self.close()
            raise
        self._use_graph = not self._bindings.rtx and (bool(self._fixed) or self._batch == 1)

    # -- tensors -------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(place) for place in range(self._engine.num_io_tensors)]

    def _fixed_batch(self) -> int:
        """The only batch of the engine; 0 if it takes several. Raises ModelError for tensors not in the manifest."""
        named = {spec.name for spec in (*self._manifest.inputs, *self._manifest.outputs)}
        if missing := named - set(self._names()):
            raise ModelError(f"{self._manifest.name}: the engine has no tensors {', '.join(sorted(missing))}")
        shape = tuple(self._engine.get_tensor_shape(self._manifest.inputs[0].name))
        return max(int(shape[0]), 0)

    def _allocate(self) -> None:
        """Buffers for the largest batch; their addresses never change."""
        trt = self._bindings.trt
        for name in self._names():
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            shape = tuple(self._engine.get_tensor_shape(name))[1:]
            if any(side < 0 for side in shape):
                raise ModelError(
                    f"{self._manifest.name}: the size of '{name}' depends on its values; use runner 'onnx'"
                )
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
            size = max(1, self._batch * math.prod(shape) * dtype.itemsize)
            device = self._cuda.malloc(size)
            try:
                host, view = self._cuda.pinned(size)
            except ModelError:
                self._cuda.free(device)
                raise
            tensor = _Tensor(name, shape, dtype, device, host, view)
            (self._inputs if is_input else self._outputs).append(tensor)
            if not self._context.set_tensor_address(name, device):
                raise self._bindings.failure(f"refuses the address of '{name}'")

    def _fill(self, batch: Tensors) -> int:
        """Copy the inputs into the page-locked buffers; returns the size of the batch. Raises ModelError."""
        name = self._manifest.name
        sizes: set[int] = set()
        for tensor in self._inputs:
            value = batch.get(tensor.name)
            if value is None:
                raise ModelError(f"{name}: input '{tensor.name}' is missing")
            if value.dtype != tensor.dtype or value.shape[1:] != tensor.shape or not value.ndim:
                raise ModelError(
                    f"{name}: input '{tensor.name}' is {value.dtype} {list(value.shape)}, the engine takes "
                    f"{tensor.dtype} {list(tensor.shape)} after the batch"
                )
            sizes.add(value.shape[0])
        size = sizes.pop()
        if sizes or not 1 <= size <= self._batch or (self._fixed and size != self._fixed):
            raise ModelError(f"{name}: a batch of {size}, the engine takes {self._fixed or f'1 to {self._batch}'}")
        for tensor in self._inputs:
            np.copyto(tensor.array(size), batch[tensor.name])
        return size

    # -- Runner --------------------------------------------------------------------------------------

    def describe(self) -> RunnerInfo:
        graph = "CUDA graph" if self._use_graph else "no CUDA graph"
        device = f"{self._cuda.device_name} ({self._cuda.capability}), {graph}"
        refused = {"CUDA graph": self._graph_refused} if self._graph_refused else {}
        return RunnerInfo(
            provider=self._bindings.name, precision=self._precision, device=device, batch=self._fixed, refused=refused
        )

    def warm_up(self) -> None:
        """Run twice: the second time records the graph."""
        size = self._fixed or 1
        zeros = {tensor.name: np.zeros((size, *tensor.shape), tensor.dtype) for tensor in self._inputs}
        self.run(zeros)
        self.run(zeros)

    def run(self, batch: Tensors) -> dict[str, Any]:
        size = self._fill(batch)
        self._set_shapes(size)
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        elif self._use_graph and self._runs:  # not at the first run, in which TensorRT still allocates
            self._record(size)
        else:
            self._enqueue(size)
        self._cuda.synchronize(self._stream)
        self._runs += 1
        return {tensor.name: tensor.array(size).copy() for tensor in self._outputs}

    def _set_shapes(self, size: int) -> None:
        if size == self._shaped:
            return
        for tensor in self._inputs:
            if not self._context.set_input_shape(tensor.name, (size, *tensor.shape)):
                raise self._bindings.failure(f"refuses the shape of '{tensor.name}'")
        self._shaped = size

    def _enqueue(self, size: int) -> None:
        """Copy in, run, copy out, all without waiting."""
        for tensor in self._inputs:
            self._cuda.to_device(tensor.device, tensor.host, tensor.bytes_of(size), self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise self._bindings.failure("cannot run the engine")
        for tensor in self._outputs:
            self._cuda.to_host(tensor.host, tensor.device, tensor.bytes_of(size), self._stream)

    def _record(self, size: int) -> None:
        """Record a graph and launch it; an engine that cannot be recorded is run without."""
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue(size)
            self._graph = self._cuda.end_capture(self._stream)
        except ModelError as error:
            self._use_graph, self._graph_refused = False, str(error)
            self._discard_capture()
            self._enqueue(size)
        else:
            self._cuda.launch(self._graph, self._stream)

    def _discard_capture(self) -> None:
        """Replace the stream: one whose capture failed can no longer be used."""
        old, self._stream = self._stream, self._cuda.stream()
        with contextlib.suppress(DeviceLost):  # the capture was invalid already
            self._cuda.destroy_graph(self._cuda.end_capture(old))
        self._cuda.destroy_stream(old)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
        for tensor in (*self._inputs, *self._outputs):
            self._cuda.free(tensor.device)
            self._cuda.free_pinned(tensor.host)
        self._cuda.destroy_stream(self._stream)
        self._inputs, self._outputs, self._graph = [], [], None
        self._context = self._engine = self._runtime = None  # in this order
