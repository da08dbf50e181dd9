"""Runner `tensorrt`: an engine that TensorRT (10, 11 or TensorRT-RTX) builds on this device.

Building takes minutes, so it is done only on request (option `build`); until then EngineMissing is raised and another
runner serves. `bindings` hides how the versions differ, `cuda` which Python binding of CUDA is there.
"""

from __future__ import annotations

import hashlib

from edge_agent.models import EngineMissing, RunnerOptions
from edge_agent.models.tensorrt.bindings import Bindings, load_bindings
from edge_agent.models.tensorrt.build import build_engine
from edge_agent.models.tensorrt.cuda import Cuda, load_cuda
from edge_agent.models.tensorrt.engine_cache import EngineCache, EngineKey
from edge_agent.models.tensorrt.runner import TensorRTRunner
from shared.errors import ModelError
from shared.models.bundle import Bundle


def open_runner(bundle: Bundle, variant: str, options: RunnerOptions) -> TensorRTRunner:
    """Entry point `tensorrt`."""
    model = bundle.model(variant)
    if bundle.manifest.variant(variant).format != "onnx":
        raise ModelError(f"{bundle.manifest.name}: TensorRT reads ONNX files, '{variant}' is another format")
    trt, cuda = load_bindings(), load_cuda()
    if not options.cache_dir:
        raise ModelError("TensorRT needs a folder for its engines: set inference.cache_dir")
    cache, key = EngineCache(options.cache_dir), _key(model, options, trt, cuda)
    plan = cache.load(key)
    if plan is None:
        if options.build is None:
            raise EngineMissing(f"its engine is not built yet for {cuda.device_name} and {trt.name}")
        cache.check_room(len(model))
        timing = cache.load_timing(key)
        plan, timing = build_engine(trt, model, bundle.manifest, options, timing, options.build)
        cache.store(key, plan, timing)
    return TensorRTRunner(trt, cuda, plan, bundle.manifest, variant, options)


def _key(model: bytes, options: RunnerOptions, trt: Bindings, cuda: Cuda) -> EngineKey:
    return EngineKey(
        model=hashlib.sha256(model).hexdigest(), tensorrt=trt.name, device=cuda.device_name,
        capability=cuda.capability, batch=options.batch, version_compatible=options.version_compatible,
    )  # fmt: skip


__all__ = ["open_runner"]
