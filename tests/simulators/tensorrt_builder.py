"""TensorRT's parser and builder, which need no GPU: the wheels tensorrt-rtx-cu13 hold both."""

from __future__ import annotations

from typing import Any

import pytest

MAX_BATCH = 8


def tensorrt() -> Any:
    """The bindings; skips the test with the reason where they are not installed or cannot be loaded."""
    try:
        import tensorrt_rtx_bindings
    except (ImportError, OSError) as error:
        pytest.skip(f"TensorRT's builder is not here ({error}). Install tensorrt-rtx-cu13-bindings and -libs (x86-64)")
    return tensorrt_rtx_bindings


def build_engine(trt: Any, model: bytes) -> tuple[bytes, list[str]]:
    """(engine for compute capability 8.6, what the parser or builder complained of); the engine is empty on failure."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        return b"", [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network))
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
    return (b"", ["the builder gave no engine"]) if engine is None else (bytes(engine), [])


def _profile(builder: Any, network: Any) -> Any:
    """Batches of 1 to 8 where the batch is free."""
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shapes = [tuple(n if side == -1 else side for side in tensor.shape) for n in (1, 4, MAX_BATCH)]
        profile.set_shape(tensor.name, *shapes)
    return profile
