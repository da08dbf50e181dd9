"""Task `regression`: numbers from an image or from a time window of metrics, such as a remaining life.

`values` holds one number for each label (without labels: `value`). The label says where the first one is: `low`,
`normal` or `high`. The margin is its distance d from the nearest limit as d / (d + scale), 1 without limits.

Options: `low` and `high` limits; `scale` (a usual deviation, default 1); `gain` and `offset` turn the output into the
unit wanted: `output * gain + offset`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from shared.errors import ModelError
from shared.models.gate import Result
from shared.models.manifest import Manifest
from shared.tasks import Array
from shared.tasks.base import BaseTask
from shared.tasks.options import number, optional_number
from shared.tasks.scores import INVALID, distance_margin, rounded


class Regression(BaseTask):
    """Numbers for each input."""

    options = ("low", "high", "scale", "gain", "offset")

    def __init__(self, manifest: Manifest, digest: str) -> None:
        super().__init__(manifest, digest)
        self._names = manifest.labels or ["value"]
        self._low, self._high = optional_number(manifest, "low"), optional_number(manifest, "high")
        if self._low is not None and self._high is not None and self._low >= self._high:
            raise ModelError(f"{manifest.name}: task_options.low must be below high")
        self._scale = number(manifest, "scale", 1.0, 1e-12, 1e30)
        self._gain = number(manifest, "gain", 1.0, -1e30, 1e30)
        self._offset = number(manifest, "offset", 0.0, -1e30, 1e30)

    def postprocess(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> list[Result]:
        """The numbers of each input."""
        rows = self.output(outputs, 0, len(inputs)).reshape(len(inputs), -1).astype(np.float64)
        if rows.shape[1] != len(self._names):
            raise ModelError(
                f"{self.manifest.name}: {rows.shape[1]} outputs for {len(self._names)} names: list them as labels"
            )
        return [self._result(row, value) for row, value in zip(rows * self._gain + self._offset, inputs, strict=True)]

    def agreement(self, result: Result, reference: Result) -> float:
        """1 minus the largest difference in units of `scale`, 0 at least."""
        if result.values.keys() != reference.values.keys():
            return 0.0
        worst = max((abs(result.values[name] - reference.values[name]) for name in result.values), default=0.0)
        return max(0.0, 1.0 - worst / self._scale)

    def _result(self, row: Array, value: Array) -> Result:
        first = float(row[0])
        limits = [limit for limit in (self._low, self._high) if limit is not None]
        margin = min((distance_margin(first, limit, self._scale) for limit in limits), default=1.0)
        margin = margin if np.isfinite(row).all() else INVALID
        return Result(
            label=self._label(first), margin=margin, digest=self.digest,
            values=rounded(dict(zip(self._names, map(float, row), strict=True))),
            features=rounded(self.input.features(value) | {"margin": margin}),
        )  # fmt: skip

    def _label(self, value: float) -> str:
        if value < (-math.inf if self._low is None else self._low):
            return "low"
        return "high" if value > (math.inf if self._high is None else self._high) else "normal"


def open_task(manifest: Manifest, digest: str) -> Regression:
    """Entry point `regression`."""
    return Regression(manifest, digest)
