"""Makes the variants of a bundle from its reference, and judges each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Literal, TypeVar

import onnx
from onnxruntime.quantization import CalibrationMethod

from cloud_hub.models import evaluation, recipes
from cloud_hub.models.data import Item
from cloud_hub.models.errors import BuildError
from cloud_hub.models.evaluation import Evaluation
from cloud_hub.models.graph import Graph
from cloud_hub.models.recipes import ATTEMPTS, Attempt
from cloud_hub.models.session import Session, open_session
from shared.errors import ModelError
from shared.models.gate import Result
from shared.models.manifest import Manifest, Variant
from shared.tasks import Task, Tensors

Report = Callable[[str], None]
T = TypeVar("T")
MAX_HISTOGRAMS = 64
"""Clipped ranges come from histograms, which hold every value of every activation: from so many inputs."""
PROGRESS_S = 5.0
RUNNERS = {
    "cpu-int8": ["onnx"], "tensorrt-int8": ["tensorrt", "onnx"], "fp16": ["tensorrt", "onnx"],
    "fp32": ["onnx", "tensorrt"], "tflite-int8": ["litert"], "tflite-fp32": ["litert"],
}  # fmt: skip


def file_name(key: str) -> str:
    """The file of a variant."""
    return f"{key}.{'tflite' if key.startswith('tflite') else 'onnx'}"


def entry(key: str, metrics: dict[str, float]) -> Variant:
    """The manifest's entry of a variant."""
    precision: Literal["fp32", "fp16", "int8"] = "int8" if key.endswith("int8") else "fp16" if key == "fp16" else "fp32"
    form: Literal["onnx", "tflite"] = "tflite" if key.startswith("tflite") else "onnx"
    return Variant(file=file_name(key), format=form, precision=precision, runners=RUNNERS[key], metrics=metrics)


def session_for(manifest: Manifest, key: str, content: bytes) -> Session:
    """A session for a file that is not in the bundle yet."""
    (first,) = manifest.variants.values()
    described = replace(manifest, variants={key: replace(entry(key, {}), file=first.file)})
    return open_session(content, described, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What variants are made from and judged by. `manifest` has the reference as its only variant."""

    graph: Graph
    manifest: Manifest
    task: Task
    calibration: Sequence[Item]
    judged: Sequence[Item]
    tolerance: float
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A variant with its figures; `content` is empty when it was refused. `summary`: how it was quantized."""

    evaluation: Evaluation
    content: bytes = b""
    summary: dict[str, Any] = field(default_factory=dict)


class VariantBuilder:
    """Makes and judges one variant after the other. The reference is answered first."""

    def __init__(self, material: Material) -> None:
        self._material, self._report = material, material.report
        self._color, self._key = material.manifest.preprocess.color, material.graph.reference
        self._prepared = None if material.graph.model is None else recipes.prepared(material.graph.model)
        self._reference = self._answers(self._key, session_for(material.manifest, self._key, material.graph.content))

    def reference(self) -> Made:
        """The reference itself."""
        content = self._material.graph.content
        made = Made(evaluation=self._judge(self._key, content, self._reference), content=content)
        self._report(line(made.evaluation))
        return made

    def possible(self, key: str) -> bool:
        """Whether the graph has anything that this variant would make faster."""
        return self._prepared is not None and (not key.endswith("int8") or recipes.can_quantize(self._prepared))

    def make(self, key: str) -> Made:
        """A variant in the first way that loses no more than the tolerance; refused when none does."""
        attempts = [one for one in ATTEMPTS if recipes.can_quantize(self._prepared, one)]
        for attempt in attempts if key.endswith("int8") else ATTEMPTS[:1]:
            self._report(f"{key}: {attempt.text if key.endswith('int8') else 'converting'}")
            made = self._tried(key, attempt)
            self._report(line(made.evaluation))
            if made.content:
                return made
        self._report(f"warning: {key} is left out: {made.evaluation.refused}")
        return made

    def _tried(self, key: str, attempt: Attempt) -> Made:
        try:
            model = self._model(key, attempt)
            content = model.SerializeToString()
            found = self._judge(key, content, None)
        except ModelError as error:
            return Made(evaluation=evaluation.failed(key, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever the quantizer raises about a graph: the variant is left out
            reason = f"cannot be made ({type(error).__name__}: {str(error)[:200]})"
            return Made(evaluation=evaluation.failed(key, reason))
        if found.loss > self._material.tolerance + 1e-9:
            reason = f"loses {found.loss:.1%}, more than --tolerance {self._material.tolerance:.1%}"
            return Made(evaluation=replace(found, refused=reason))
        ranges = {"way": attempt.text, "ranges": recipes.activation_ranges(model)} if key.endswith("int8") else {}
        return Made(evaluation=found, content=content, summary=ranges)

    def _model(self, key: str, attempt: Attempt) -> onnx.ModelProto:
        assert self._material.graph.model is not None
        assert self._prepared is not None
        if key == "fp16":
            return recipes.half(self._material.graph.model)
        return recipes.quantized(self._prepared, self._feed(key, attempt), attempt, tensorrt=key.startswith("tensorrt"))

    def _feed(self, key: str, attempt: Attempt) -> Iterator[Tensors]:
        """Input tensors for the quantizer; its histograms want batches of one size."""
        items, batch = self._material.calibration, self._material.graph.batch
        if attempt.method != CalibrationMethod.MinMax:
            items, batch = items[:MAX_HISTOGRAMS], batch or 1
        parts = evaluation.tensors(self._material.task, items, self._color, batch)
        for _, tensors in self._counted(parts, f"{key}: calibrated on", len(items)):
            yield tensors

    def _judge(self, key: str, content: bytes, found: Sequence[Result] | None) -> Evaluation:
        material = self._material
        session = session_for(material.manifest, key, content)
        answers = self._answers(key, session) if found is None else found
        latency = evaluation.latency_ms(material.task, session, self._color, material.judged[0])
        return evaluation.evaluate(
            key, len(content), latency, material.task, answers, self._reference, material.judged
        )  # fmt: skip

    def _answers(self, key: str, session: Session) -> list[Result]:
        """The results of all judged inputs; raises BuildError when they cannot be had or are no numbers."""
        material = self._material
        parts = evaluation.results(material.task, session, material.judged, self._color)
        counted = self._counted(parts, f"{key}: evaluated on", len(material.judged))
        try:
            found = [result for part in counted for result in part]
        except BuildError:
            raise
        except ModelError as error:
            cure = f"Check --labels, --option and that the model does {material.manifest.task}"
            raise BuildError(f"{key} variant", str(error), cure) from error
        evaluation.check_numbers(material.manifest, found, material.judged, f"{key} variant")
        return found

    def _counted(self, parts: Iterable[T], what: str, total: int) -> Iterator[T]:
        """Pass parts on, and report how many inputs are done once in a while."""
        done, reported = 0, monotonic()
        for part in parts:
            yield part
            done += len(part[0] if isinstance(part, tuple) else part)  # type: ignore[arg-type]
            if monotonic() - reported > PROGRESS_S:
                self._report(f"  {what} {done} of {total} inputs")
                reported = monotonic()


def line(found: Evaluation) -> str:
    """The figures of a variant in a line."""
    state = f"{found.refused}; " if found.refused else ""
    return f"  {found.variant}: {state}{found.how}, {found.latency_ms:.3g} ms, {found.bytes / 1e6:.3g} MB"
