"""Builds an engine: parses the ONNX file into a strongly typed network and has TensorRT choose its kernels.

Weakly typed networks and calibration are not used: TensorRT 11 has removed both. The precision is that of the model.
"""

from __future__ import annotations

from typing import Any

from edge_agent.models import Progress, RunnerOptions
from edge_agent.models.tensorrt.bindings import Bindings
from shared.errors import ModelError
from shared.models.manifest import Manifest


def parse(bindings: Bindings, builder: Any, model: bytes) -> Any:
    """The network of an ONNX file; raises ModelError with what the parser says."""
    network = builder.create_network(bindings.network_flags())
    parser = bindings.trt.OnnxParser(network, bindings.logger)
    if not parser.parse(model):
        reasons = "; ".join(str(parser.get_error(place)) for place in range(parser.num_errors))
        raise ModelError(f"{bindings.name} cannot parse the model: {reasons[:600]}")
    return network


def _profile(builder: Any, network: Any, manifest: Manifest, batch: int) -> Any:
    """The range of shapes, if the model has free dimensions: batches from 1 to `batch`."""
    profile, free = builder.create_optimization_profile(), False
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        shape = tuple(tensor.shape)
        if any(side < 0 for side in shape[1:]):
            raise ModelError(
                f"{manifest.name}: input '{tensor.name}' has free dimensions besides the batch ({list(shape)}). "
                "Build the bundle with fixed sizes"
            )
        if shape and shape[0] < 0:
            free = True
            profile.set_shape(tensor.name, (1, *shape[1:]), (batch, *shape[1:]), (batch, *shape[1:]))
    return profile if free else None


def build_engine(
    bindings: Bindings, model: bytes, manifest: Manifest, options: RunnerOptions, timing: bytes, progress: Progress,
    compute_capability: str = "",
) -> tuple[bytes, bytes]:  # fmt: skip
    """(engine, timing cache). `compute_capability`, such as SM86, builds ahead of time for another device
    (TensorRT-RTX only, and without a GPU). Raises ModelError."""
    trt = bindings.trt
    progress(0.0, "parsing")
    builder = trt.Builder(bindings.logger)
    network = parse(bindings, builder, model)
    config = builder.create_builder_config()
    profile = _profile(builder, network, manifest, options.batch)
    if profile is not None and config.add_optimization_profile(profile) < 0:
        raise bindings.failure("refuses the range of shapes")
    if options.version_compatible and bindings.supports("VERSION_COMPATIBLE"):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if compute_capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, compute_capability), 0)
    cache = _timing_cache(bindings, config, timing)
    config.progress_monitor = bindings.monitor(progress)
    progress(0.05, "building")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise bindings.failure("cannot build an engine")
    return bytes(plan), bytes(cache.serialize()) if cache is not None else b""


def _timing_cache(bindings: Bindings, config: Any, timing: bytes) -> Any:
    """The timing cache in use; one that does not fit is replaced by an empty one. None with TensorRT-RTX, which has no
    timings."""
    if bindings.rtx:
        return None
    cache = config.create_timing_cache(timing)
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache
