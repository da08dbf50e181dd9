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
    """What variants are made from and held_out by. `manifest` has the reference as its only variant."""

    graph: Graph
    manifest: Manifest
    task: Task
    calibration: Sequence[Item]
    held_out: Sequence[Item]
    tolerance: float
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltVariant:
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

    def reference(self) -> BuiltVariant:
        """The reference itself."""
        content = self._material.graph.content
        variant = BuiltVariant(evaluation=self._judge(self._key, content, self._reference), content=content)
        self._report(line(variant.evaluation))
        return variant

    def possible(self, key: str) -> bool:
        """Whether the graph has anything that this variant would make faster."""
        return self._prepared is not None and (not key.endswith("int8") or recipes.can_quantize(self._prepared))

    def make(self, key: str) -> BuiltVariant:
        """A variant in the first way that loses no more than the tolerance; refused when none does."""
        attempts = [attempt for attempt in ATTEMPTS if recipes.can_quantize(self._prepared, attempt)]
        for attempt in attempts if key.endswith("int8") else ATTEMPTS[:1]:
            self._report(f"{key}: {attempt.text if key.endswith('int8') else 'converting'}")
            variant = self._try(key, attempt)
            self._report(line(variant.evaluation))
            if variant.content:
                return variant
        self._report(f"warning: {key} is left out: {variant.evaluation.refused}")
        return variant

    def _try(self, key: str, attempt: Attempt) -> BuiltVariant:
        try:
            model = self._model(key, attempt)
            content = model.SerializeToString()
            figures = self._judge(key, content, None)
        except OSError:  # the disk for temporary files: no fault of the variant
            raise
        except ModelError as error:
            return BuiltVariant(evaluation=evaluation.failed(key, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever the quantizer raises about a graph: the variant is left out
            reason = f"cannot be made ({type(error).__name__}: {str(error)[:200]})"
            return BuiltVariant(evaluation=evaluation.failed(key, reason))
        if figures.loss > self._material.tolerance + 1e-9:
            reason = f"loses {figures.loss:.1%}, more than --tolerance {self._material.tolerance:.1%}"
            return BuiltVariant(evaluation=replace(figures, refused=reason))
        ranges = {"way": attempt.text, "ranges": recipes.activation_ranges(model)} if key.endswith("int8") else {}
        return BuiltVariant(evaluation=figures, content=content, summary=ranges)

    def _model(self, key: str, attempt: Attempt) -> onnx.ModelProto:
        assert self._material.graph.model is not None
        assert self._prepared is not None
        if key == "fp16":
            return recipes.to_float16(self._material.graph.model)
        return recipes.quantized(self._prepared, self._feed(key, attempt), attempt, tensorrt=key.startswith("tensorrt"))

    def _feed(self, key: str, attempt: Attempt) -> Iterator[Tensors]:
        """Input tensors for the quantizer; its histograms want batches of one size."""
        items, batch = self._material.calibration, self._material.graph.batch
        if attempt.method != CalibrationMethod.MinMax:
            items, batch = items[:MAX_HISTOGRAMS], batch or 1
        parts = evaluation.tensors(self._material.task, items, self._color, batch)
        for _, tensors in self._with_progress(parts, f"{key}: calibrated on", len(items)):
            yield tensors

    def _judge(self, key: str, content: bytes, known: Sequence[Result] | None) -> Evaluation:
        material = self._material
        session = session_for(material.manifest, key, content)
        answers = self._answers(key, session) if known is None else known
        latency = evaluation.latency_ms(material.task, session, self._color, material.held_out[0])
        return evaluation.evaluate(
            key, len(content), latency, material.task, answers, self._reference, material.held_out
        )  # fmt: skip

    def _answers(self, key: str, session: Session) -> list[Result]:
        """The results of all held_out inputs; raises BuildError when they cannot be had or are no numbers."""
        material = self._material
        parts = evaluation.results(material.task, session, material.held_out, self._color)
        parts = self._with_progress(parts, f"{key}: evaluated on", len(material.held_out))
        try:
            results = [result for part in parts for result in part]
        except BuildError:
            raise
        except ModelError as error:
            cure = f"Check --labels, --option and that the model does {material.manifest.task}"
            raise BuildError(f"{key} variant", str(error), cure) from error
        evaluation.check_numbers(material.manifest, results, material.held_out, f"{key} variant")
        return results

    def _with_progress(self, parts: Iterable[T], what: str, total: int) -> Iterator[T]:
        """Pass parts on, and report how many inputs are done once in a while."""
        done, reported = 0, monotonic()
        for part in parts:
            yield part
            done += len(part[0] if isinstance(part, tuple) else part)  # type: ignore[arg-type]
            if monotonic() - reported > PROGRESS_S:
                self._report(f"  {what} {done} of {total} inputs")
                reported = monotonic()


def line(figures: Evaluation) -> str:
    """The figures of a variant in a line."""
    state = f"{figures.refused}; " if figures.refused else ""
    return f"  {figures.variant}: {state}{figures.summary}, {figures.latency_ms:.3g} ms, {figures.bytes / 1e6:.3g} MB"
