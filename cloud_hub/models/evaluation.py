"""Compares a variant with the FP32 reference on data that it was not calibrated on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cloud_hub.models.data import Item, batches
from cloud_hub.models.errors import BuildError
from cloud_hub.models.session import Session
from shared.errors import ModelError
from shared.models.gate import Result
from shared.models.manifest import Manifest
from shared.tasks import Array, Task, Tensors

BATCH, MAX_BATCH_BYTES = 16, 4 << 20
WORST = 5
WARM_UP, TIMED, MAX_TIMED_S = 3, 30, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured of one variant. `loss` is what the tolerance bounds; `refused` is why it is not in the bundle.

    `worst` are inputs whose answers agree least with the reference.
    """

    variant: str
    bytes: int
    latency_ms: float
    agreement: float
    accuracy: float | None
    error: float | None
    loss: float
    summary: str
    worst: list[str] = field(default_factory=list)
    refused: str = ""

    @property
    def metrics(self) -> dict[str, float]:
        """The figures for the manifest."""
        figures = {
            "bytes": float(self.bytes), "latency_ms": round(self.latency_ms, 4), "agreement": round(self.agreement, 4),
            "accuracy": self.accuracy, "mean_absolute_error": self.error,
        }  # fmt: skip
        return {name: round(value, 6) for name, value in figures.items() if value is not None}


def tensors(task: Task, items: Sequence[Item], color: str, batch: int) -> Iterator[tuple[list[Array], Tensors]]:
    """Inputs and their tensors in batches as the graph takes them (`batch` 0: any); raises BuildError.

    The last batch of a fixed size is filled up with its last input.
    """
    bytes_each = sum(tensor.nbytes for tensor in task.preprocess([task.blank()] * (batch or 1)).values())
    for part in batches(items, batch or max(1, min(BATCH, MAX_BATCH_BYTES // bytes_each))):
        inputs = [item.load(color) for item in part]
        filled = inputs + inputs[-1:] * ((batch or len(inputs)) - len(inputs))
        try:
            yield inputs, task.preprocess(filled)
        except ModelError as error:
            cure = "Give data like that of the device, or set --resize, --layout or --color"
            raise BuildError(f"calibration data '{part[0].name}'", str(error), cure) from error


def results(task: Task, session: Session, items: Sequence[Item], color: str) -> Iterator[list[Result]]:
    """The results of all items, batch by batch; raises ModelError."""
    for inputs, batch in tensors(task, items, color, session.batch):
        filled = inputs + inputs[-1:] * (len(next(iter(batch.values()))) - len(inputs))
        yield task.postprocess(session.run(batch), filled)[: len(inputs)]


def latency_ms(task: Task, session: Session, color: str, item: Item) -> float:
    """Median time of one run with one input, in one thread, without pre- and post-processing."""
    _, batch = next(tensors(task, [item], color, session.batch))
    times: list[float] = []
    for number in range(WARM_UP + TIMED):
        began = time.perf_counter()
        session.run(batch)
        times += [(time.perf_counter() - began) * 1e3] if number >= WARM_UP else []
        if sum(times) > MAX_TIMED_S * 1e3:
            break
    return float(np.median(times))


def evaluate(
    variant: str, size: int, latency: float, task: Task, answers: Sequence[Result], reference: Sequence[Result],
    items: Sequence[Item],
) -> Evaluation:  # fmt: skip
    """The figures of a variant from its results and those of the reference, in the order of `items`."""
    agreements = [task.agreement(result, expected) for result, expected in zip(answers, reference, strict=True)]
    accuracy, before = _accuracy(answers, items), _accuracy(reference, items)
    agreement = float(np.mean(agreements))
    loss, summary = 1.0 - agreement, f"agrees with FP32 on {agreement:.1%}"
    if accuracy is not None and before is not None:
        loss, summary = before - accuracy, f"accuracy {accuracy:.1%}, agrees with FP32 on {agreement:.1%}"
    if answers is reference:
        summary = "the reference" if accuracy is None else f"accuracy {accuracy:.1%}"
    order = sorted(range(len(items)), key=lambda i: (agreements[i], answers[i].margin))
    worst = [_line(items[i], answers[i], reference[i]) for i in order if agreements[i] < 0.999][:WORST]
    return Evaluation(
        variant=variant, bytes=size, latency_ms=latency, agreement=agreement, accuracy=accuracy,
        error=_error(answers, items), loss=loss, summary=f"{summary} ({len(items)} inputs)", worst=worst,
    )  # fmt: skip


def _line(item: Item, result: Result, reference: Result) -> str:
    truth = f", true {item.truth}" if item.truth else ""
    if result.label != reference.label:
        return f"{item.name}: {result.label} (margin {result.margin:.3f}), FP32 {reference.label}{truth}"
    pairs = ((name, result.values[name], reference.values.get(name, 0.0)) for name in result.values)
    name, value, other = max(pairs, key=lambda row: abs(row[1] - row[2]), default=("", 0.0, 0.0))
    return f"{item.name}: {name} {value:.4g}, FP32 {other:.4g}{truth}"


def _accuracy(results: Sequence[Result], items: Sequence[Item]) -> float | None:
    """Share of right labels; None when no truth is known."""
    known = [result.label == item.truth for result, item in zip(results, items, strict=True) if item.truth]
    return float(np.mean(known)) if known else None


def _error(results: Sequence[Result], items: Sequence[Item]) -> float | None:
    """Mean absolute difference of the first number from the target; None when no targets are known."""
    pairs = [(next(iter(r.values.values())), i.target) for r, i in zip(results, items, strict=True) if r.values]
    errors = [abs(value - target) for value, target in pairs if target is not None]
    return float(np.mean(errors)) if errors else None


def check_numbers(manifest: Manifest, results: Sequence[Result], items: Sequence[Item], what: str) -> None:
    """Raise BuildError when a result is no number."""
    for result, item in zip(results, items, strict=True):
        if not 0.0 <= result.margin <= 1.0:
            cure = "Check --scale, --mean and --std, and the export: the model gives NaN or infinity for this input"
            raise BuildError(f"{what} of {manifest.name}", f"its answer to '{item.name}' is no number", cure)


def failed(variant: str, reason: str) -> Evaluation:
    """A variant that could not be evaluated."""
    return Evaluation(
        variant=variant, bytes=0, latency_ms=0.0, agreement=0.0, accuracy=None, error=None, loss=1.0,
        summary="not evaluated", refused=reason,
    )  # fmt: skip
