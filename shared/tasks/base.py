"""What all built-in tasks share: how an input becomes tensors, checked outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from shared.errors import ModelError
from shared.models.gate import Result
from shared.models.manifest import Manifest
from shared.tasks import Array, Tensors
from shared.tasks.images import LAYOUTS as IMAGE_LAYOUTS
from shared.tasks.images import ImageInput
from shared.tasks.options import check_known
from shared.tasks.window_parts import WindowParts
from shared.tasks.windows import LAYOUTS as WINDOW_LAYOUTS
from shared.tasks.windows import WindowInput

Input: TypeAlias = "ImageInput | WindowInput | WindowParts"


class BaseTask:
    """A task that reads an image or a window. Subclasses add `postprocess`."""

    options: tuple[str, ...] = ()
    """Names of the task's options."""

    def __init__(self, manifest: Manifest, digest: str) -> None:
        check_known(manifest, self.options)
        self.manifest, self.digest, self.input = manifest, digest, open_input(manifest)

    def preprocess(self, inputs: Sequence[Array]) -> Tensors:
        """The input tensors of a batch."""
        if not inputs:
            raise ModelError(f"{self.manifest.name}: a batch has at least one input")
        return self.input.tensors(inputs)

    def blank(self) -> Array:
        """An input of zeros."""
        return self.input.blank()

    def agreement(self, result: Result, reference: Result) -> float:
        """1 when both have the same label, else 0."""
        return float(result.label == reference.label)

    def output(self, outputs: Mapping[str, Array], at: int, count: int) -> Array:
        """Output number `at` of a batch of `count` inputs; raises ModelError when it is not there or does not fit."""
        name = self.manifest.outputs[at].name
        if name not in outputs:
            raise ModelError(f"{self.manifest.name}: the model gave no output '{name}', but {', '.join(outputs)}")
        output = outputs[name]
        if output.ndim == 0 or len(output) != count:
            raise ModelError(f"{self.manifest.name}: output '{name}' is {list(output.shape)} for a batch of {count}")
        return output


def open_input(manifest: Manifest) -> Input:
    """What turns an input into the model's tensors, by their layouts; raises ModelError when no task can feed them."""
    if len(manifest.inputs) > 1:
        return WindowParts(manifest)
    spec = manifest.inputs[0]
    if spec.layout in IMAGE_LAYOUTS:
        return ImageInput(manifest, spec)
    if spec.layout in WINDOW_LAYOUTS:
        return WindowInput(manifest, spec)
    known = ", ".join((*IMAGE_LAYOUTS, *WINDOW_LAYOUTS))
    raise ModelError(f"{manifest.name}: input '{spec.name}' has layout '{spec.layout}'. Known layouts: {known}")
