"""The interface of task plug-ins: a task turns inputs into tensors and a model's output tensors into results.

An entry point in group `tidegate.tasks` names a function `open_task(manifest, digest)` that returns a Task or raises
ModelError when the manifest does not fit the task. Tasks use numpy alone. They run in the inference process and on the
hub, never in the agent's process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared import plugins
from shared.errors import ConfigError, ModelError
from shared.models.gate import Result
from shared.models.manifest import Manifest

Array: TypeAlias = NDArray[Any]
Tensors: TypeAlias = dict[str, Array]


class Task(Protocol):
    """Reads and writes the tensors of one model. It keeps no state between calls."""

    def preprocess(self, inputs: Sequence[Array]) -> Tensors:
        """The model's input tensors for a batch; raises ModelError for an input that does not fit.

        An input is a frame, uint8 [height, width, channels] in gray or RGB order, or a window of metrics, float32
        [samples, metrics].
        """
        ...

    def postprocess(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> list[Result]:
        """A result for each input from the model's output tensors; raises ModelError for outputs that do not fit.

        `inputs` are those given to `preprocess`.
        """
        ...

    def blank(self) -> Array:
        """An input that fits the model, for its warm-up."""
        ...

    def agreement(self, result: Result, reference: Result) -> float:
        """How far two answers to the same input agree, 0..1; compares variants, and runners on devices."""
        ...


def open_task(manifest: Manifest, variant: str) -> Task:
    """The task of a bundle, whose results carry the digest of `variant`; raises ModelError."""
    try:
        opened: Task = plugins.load(plugins.TASKS, manifest.task, f"{manifest.name}: task")(
            manifest, manifest.variant_digest(variant)
        )
    except ConfigError as error:
        raise ModelError(str(error)) from error
    return opened


def from_frame(data: bytes | memoryview, shape: tuple[int, int, int], color: str = "gray") -> Array:
    """The pixels of a frame as a task takes them: uint8 [height, width, channels], BGR turned into RGB, not copied."""
    pixels = np.frombuffer(data, np.uint8)
    if pixels.size != shape[0] * shape[1] * shape[2]:
        raise ModelError(f"frame is {pixels.size} bytes, its shape {shape} says otherwise")
    pixels = pixels.reshape(shape)
    return pixels[..., ::-1] if color == "bgr" else pixels


def window_from(data: bytes | memoryview, shape: tuple[int, int]) -> Array:
    """A window of metrics as a task takes it: float32 [samples, metrics], not copied."""
    if len(data) != shape[0] * shape[1] * 4:
        raise ModelError(f"window is {len(data)} bytes, its shape {shape} of float32 says otherwise")
    return np.frombuffer(data, np.float32).reshape(shape)
