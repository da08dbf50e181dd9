"""Task `tensors`: the output tensors as they are, for a consumer that knows them.

`values` holds `OUTPUT.INDEX` of the first `max_values` numbers of all outputs. There is no answer to judge: the label
is `tensors` and the margin 1, so a gate keeps all of them.

Options: `max_values`, default 64; `tolerance`, the difference relative to the largest value at which two answers no
longer agree, default 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shared.models.gate import Result
from shared.models.manifest import Manifest
from shared.tasks import Array
from shared.tasks.base import BaseTask
from shared.tasks.options import number
from shared.tasks.scores import INVALID, rounded

LABEL = "tensors"


class PlainTensors(BaseTask):
    """Numbers of the output tensors."""

    options = ("max_values", "tolerance")

    def __init__(self, manifest: Manifest, digest: str) -> None:
        super().__init__(manifest, digest)
        self._max = int(number(manifest, "max_values", 64, 1, 100_000))
        self._tolerance = number(manifest, "tolerance", 0.1, 1e-9, 1e9)

    def postprocess(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> list[Result]:
        """The numbers of each input."""
        batches = [self.output(outputs, at, len(inputs)) for at in range(len(self.manifest.outputs))]
        return [self._result([output[i] for output in batches], value) for i, value in enumerate(inputs)]

    def agreement(self, result: Result, reference: Result) -> float:
        """1 minus the largest difference in units of `tolerance` of the largest value, 0 at least."""
        if result.values.keys() != reference.values.keys():
            return 0.0
        largest = max(map(abs, reference.values.values()), default=0.0)
        worst = max((abs(result.values[name] - value) for name, value in reference.values.items()), default=0.0)
        return max(0.0, 1.0 - worst / (self._tolerance * largest)) if largest else float(worst == 0.0)

    def _result(self, outputs: list[Array], value: Array) -> Result:
        margin = 1.0 if all(np.isfinite(output).all() for output in outputs) else INVALID
        values: dict[str, float] = {}
        for spec, output in zip(self.manifest.outputs, outputs, strict=True):
            flat = output.ravel()[: self._max - len(values)]
            values |= {f"{spec.name}.{i}": float(value) for i, value in enumerate(flat)}
        return Result(
            label=LABEL, margin=margin, digest=self.digest, values=rounded(values),
            features=rounded(self.input.features(value) | {"margin": margin}),
        )  # fmt: skip


def open_task(manifest: Manifest, digest: str) -> PlainTensors:
    """Entry point `tensors`."""
    return PlainTensors(manifest, digest)
