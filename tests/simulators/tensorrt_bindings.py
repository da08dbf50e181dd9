"""TensorRT's and CUDA's Python bindings, simulated on the CPU by ONNX Runtime, with the rules of the real ones.

What the documentation calls undefined or an error is an error here: addresses that are not set, not allocated, too
small or on the wrong side; shapes outside of the profile; a free input without a profile; an engine of another version
or device; copies whose host memory is not page-locked; results read before the stream was synchronized (the work is
only done then); a graph launched after the shapes of its context have changed; memory that is freed twice or never.

`make_tensorrt(version)` and `make_cuda()` return modules; `install(home)` writes packages for child processes.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from simulators.cuda_bindings import Device, make_cuda
from simulators.tensorrt_classes import (
    NUMPY,
    Builder,
    DataType,
    ILogger,
    IProgressMonitor,
    NetworkDefinitionCreationFlag,
    OnnxParser,
    Runtime,
    Simulation,
    TensorIOMode,
)


def make_tensorrt(version: str, device: Device, build_s: float = 0.0) -> Any:
    """A module like tensorrt of `version`."""
    simulation = Simulation(version, device, build_s)
    flags = ["VERSION_COMPATIBLE", "TF32", "EXCLUDE_LEAN_RUNTIME"] + (
        ["FP16", "INT8"] if simulation.major == 10 else []
    )
    return SimpleNamespace(
        __name__="tensorrt", __version__=version, ILogger=ILogger, IProgressMonitor=IProgressMonitor,
        Builder=partial(Builder, simulation), OnnxParser=OnnxParser, Runtime=partial(Runtime, simulation),
        TensorIOMode=TensorIOMode, DataType=DataType, NetworkDefinitionCreationFlag=NetworkDefinitionCreationFlag,
        nptype=lambda kind: NUMPY[kind], BuilderFlag=IntEnum("BuilderFlag", flags),
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
