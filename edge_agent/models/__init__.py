"""The interface of model runner plug-ins. Runners run in the inference process, never in the agent's process.

An entry point in group `tidegate.runners` names a function `open_runner(bundle, variant, options)` that returns a
Runner or raises ModelError. The bundle has been verified. A runner knows tensors only: what goes before and after is
the task's (`shared.tasks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from shared.errors import ModelError

if TYPE_CHECKING:  # the agent's process imports this package and never numpy
    import numpy as np
    from numpy.typing import NDArray

    Tensors: TypeAlias = Mapping[str, NDArray[np.generic]]
else:
    Tensors = Mapping[str, Any]

Progress: TypeAlias = Callable[[float, str], None]
"""Called with the progress of a build in 0..1 and the phase."""


class EngineMissing(ModelError):
    """The runner needs an engine that is built on this device first, and the options did not ask for a build."""


class DeviceLost(ModelError):
    """The accelerator can no longer be used: the inference process ends and is started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """How a model is run.

    `providers` are ONNX Runtime's names, best first; `libraries` maps a provider's name to the shared library that
    brings it. `threads` are CPU threads of one call, `batch` the largest batch. `cache_dir` is a folder for engines
    built on this device. With `build`, a missing engine is built, which may take minutes; without, EngineMissing is
    raised. `version_compatible` asks for engines that later versions of TensorRT can load.
    """

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = 1
    batch: int = 1
    cache_dir: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    version_compatible: bool = False
    build: Progress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerInfo:
    """What really runs: `refused` are the better providers that could not be used, with the reason of each.

    `batch` is the only batch size that the model takes; 0: any.
    """

    provider: str
    precision: str
    device: str
    batch: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)


class Runner(Protocol):
    """Runs a model on batches of tensors. All methods are called from one thread and raise only ModelError."""

    def describe(self) -> RunnerInfo:
        """What really runs."""
        ...

    def warm_up(self) -> None:
        """Run the model once on zeros, so that the first frame is not slower than others."""
        ...

    def run(self, batch: Tensors) -> dict[str, Any]:
        """The output tensors for input tensors, by name; the first dimension is the batch."""
        ...

    def close(self) -> None:
        """Release memory and devices."""
        ...
