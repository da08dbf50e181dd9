"""Builds a bundle from an ONNX file: check, quantize, evaluate, write."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod

from cloud_hub.models import card, evaluation, recipes
from cloud_hub.models.data import Item, read_items, split
from cloud_hub.models.errors import BuildError
from cloud_hub.models.evaluation import Evaluation
from cloud_hub.models.golden import COUNT, GOLDEN, golden_files
from cloud_hub.models.graph import Graph, read_graph
from cloud_hub.models.recipes import ATTEMPTS
from cloud_hub.models.request import (
    VARIANTS,
    BuildRequest,
    Options,
    input_spec,
    measured_options,
    ordered_outputs,
    preprocessing,
    task_options,
)
from cloud_hub.models.session import Session, open_session
from cloud_hub.models.writer import check_free, make_manifest, write_bundle
from shared.errors import ModelError
from shared.gate import Result
from shared.manifest import Manifest, Variant
from shared.tasks import Array, Tensors, open_task
from shared.tasks.anomaly import Anomaly

Report = Callable[[str], None]
MAX_HISTOGRAMS = 64
"""Clipped ranges come from histograms, which hold every value of every activation: from so many inputs."""
RUNNERS = {
    "cpu-int8": ["onnx"], "tensorrt-int8": ["tensorrt", "onnx"], "fp16": ["tensorrt", "onnx"],
    "fp32": ["onnx", "tensorrt"], "tflite-int8": ["litert"], "tflite-fp32": ["litert"],
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build gave: the manifest as written, and what was measured of each variant, refused ones too."""

    manifest: Manifest
    evaluations: list[Evaluation]
    notes: list[str]


def build(request: BuildRequest, report: Report = lambda _text: None) -> BuildReport:
    """Build the bundle; raises BuildError, and then nothing was written. `report` gets a line for each step."""
    check_free(request.out)
    _check(request)
    report(f"reading {request.onnx.name}")
    graph = _read(request)
    for note in graph.notes:
        report(f"  {note}")
    calibration, judged = _data(request)
    report(f"{len(calibration)} inputs for calibration, {len(judged)} others for evaluation")
    return _Build(request, graph, calibration, judged, report).run()


def _read(request: BuildRequest) -> Graph:
    if request.onnx.suffix != ".tflite":
        return read_graph(request.onnx, request.shape)
    from cloud_hub.models.tflite import read_tflite  # noqa: PLC0415 - extra `litert`

    return read_tflite(request.onnx)


def _check(request: BuildRequest) -> None:
    unknown = [key for key in request.variants if key not in VARIANTS]
    if unknown:
        raise BuildError("--variants", f"there is no variant '{unknown[0]}'", f"Known: {', '.join(VARIANTS)}")
    if not 0.0 <= request.tolerance <= 1.0:
        raise BuildError("--tolerance", f"{request.tolerance} is no share", "Give a number in 0..1, such as 0.02")


def _data(request: BuildRequest) -> tuple[list[Item], list[Item]]:
    items = read_items(request.calibration, request.labels)
    calibration, judged = split(items, str(request.calibration))
    if request.evaluation is not None:
        halves = split(read_items(request.evaluation, request.labels), str(request.evaluation))
        judged = [*halves[0], *halves[1]]
    return calibration, judged


class _Build:
    """One build: the reference's manifest and answers, then variant by variant."""

    def __init__(
        self, request: BuildRequest, graph: Graph, calibration: list[Item], judged: list[Item], report: Report
    ) -> None:
        self._request, self._graph, self._report = request, graph, report
        self._calibration, self._judged = calibration, judged
        self._notes = list(graph.notes)
        self._key, self._reference = graph.reference, graph.content
        self._files: dict[str, bytes] = {_file(self._key): self._reference}
        self._manifest = self._described()
        self._color = self._manifest.preprocess.color
        self._manifest = replace(self._manifest, task_options=self._settled())
        self._task = open_task(self._manifest, self._key)
        self._prepared = None if graph.model is None else recipes.prepared(graph.model)
        self._summary: dict[str, Any] = {}

    def run(self) -> BuildReport:
        """Make, judge and write all variants."""
        session = self._session(self._key, self._reference)
        reference = self._answers(session, f"{self._key} reference")
        evaluations = [self._judge(self._key, self._reference, reference)]
        self._report(self._line(evaluations[0]))
        self._warn_of_chance(evaluations[0])
        evaluations += [self._variant(key, reference) for key in self._wanted()]
        self._compare_speed(evaluations)
        return self._write(evaluations)

    # -- the manifest ----------------------------------------------------------------------------

    def _described(self) -> Manifest:
        """The manifest of the reference, as far as the graph and the request tell."""
        request = self._request
        spec, outputs = input_spec(request, self._graph), ordered_outputs(request, self._graph.outputs)
        try:
            return make_manifest(
                self._files, name=request.name or request.onnx.stem, version=request.version, task=request.task,
                labels=list(request.labels), inputs=[spec], outputs=outputs, preprocess=preprocessing(request, spec),
                task_options=task_options(request, outputs), batch=self._graph.batch, licence=request.licence,
                variants={self._key: _entry(self._key, {})}, provenance=self._provenance(),
            )  # fmt: skip
        except ValueError as error:
            raise BuildError("the bundle's manifest", str(error), "Correct the labels or the options") from error

    def _provenance(self) -> dict[str, str]:
        tools = {name: version(name) for name in ("onnx", "onnxruntime", "numpy", "tidegate")}
        return {
            "source": self._request.onnx.name, "calibration": f"{self._request.calibration.name}, "
            f"{len(self._calibration)} inputs; evaluated on {len(self._judged)} others",
            "tools": ", ".join(f"{name} {number}" for name, number in tools.items()),
            "machine": f"{platform.machine()} {platform.system()}",
        } | self._request.provenance  # fmt: skip

    def _settled(self) -> Options:
        """The task's options, with those that the reference's outputs tell."""
        options = dict(self._manifest.task_options)
        probe: Options = {"threshold": 0.0} if self._request.task == "anomaly" else {}
        made = replace(self._manifest, task_options=probe | options)
        task, session = open_task(made, self._key), self._session(self._key, self._reference)
        rows: list[Tensors] = []
        scores: list[Array] = []
        for inputs, batch in evaluation.tensors(task, self._normal(), self._color, session.batch):
            outputs = session.run(batch)
            rows.append({made.outputs[0].name: outputs[made.outputs[0].name]})
            if isinstance(task, Anomaly):
                scores.append(task.scores(outputs, inputs)[: len(inputs)])
        first = {made.outputs[0].name: np.concatenate([np.atleast_1d(row[made.outputs[0].name]) for row in rows])}
        return measured_options(self._request.task, options, first, np.concatenate(scores) if scores else None)

    def _normal(self) -> list[Item]:
        """Calibration inputs; of an anomaly model only those known to be normal, when that is known."""
        normal = self._request.labels[0] if self._request.labels else "normal"
        known = [item for item in self._calibration if item.truth == normal]
        return known if self._request.task == "anomaly" and known else self._calibration

    # -- variants --------------------------------------------------------------------------------

    def _wanted(self) -> Iterator[str]:
        """The variants to make besides the reference."""
        for key in self._request.variants if self._prepared is not None else ():
            if key.endswith("int8") and not recipes.can_quantize(self._prepared):
                self._note(f"{key}: left out, the graph has no convolution or matrix product")
            elif key != self._key:
                yield key

    def _variant(self, key: str, reference: Sequence[Result]) -> Evaluation:
        """Make a variant in the first way that loses no more than the tolerance; refused when none does."""
        possible = [one for one in ATTEMPTS if recipes.can_quantize(self._prepared, one)]
        attempts = possible if key.endswith("int8") else ATTEMPTS[:1]
        for attempt in attempts:
            self._report(f"{key}: {attempt.text if key.endswith('int8') else 'converting'}")
            found = self._tried(key, attempt, reference)
            self._report(self._line(found))
            if not found.refused:
                return found
        self._report(f"warning: {key} is left out: {found.refused}")
        return found

    def _tried(self, key: str, attempt: recipes.Attempt, reference: Sequence[Result]) -> Evaluation:
        try:
            model = self._made(key, attempt)
            content = model.SerializeToString()
            found = self._judge(key, content, reference)
        except ModelError as error:
            return _failed(key, str(error))
        except Exception as error:  # noqa: BLE001 - whatever the quantizer raises about a graph: the variant is left out
            return _failed(key, f"cannot be made ({type(error).__name__}: {str(error)[:200]})")
        if found.loss > self._request.tolerance + 1e-9:
            reason = f"loses {found.loss:.1%}, more than --tolerance {self._request.tolerance:.1%}"
            return replace(found, refused=reason)
        self._files[_file(key)] = content
        if key.endswith("int8"):
            self._summary[key] = {"way": attempt.text, "ranges": recipes.activation_ranges(model)}
        return found

    def _made(self, key: str, attempt: recipes.Attempt) -> onnx.ModelProto:
        assert self._graph.model is not None
        assert self._prepared is not None
        if key == "fp16":
            return recipes.half(self._graph.model)
        items, batch = self._calibration, self._graph.batch
        if attempt.method != CalibrationMethod.MinMax:
            items, batch = items[:MAX_HISTOGRAMS], batch or 1  # the histograms want batches of one size
        feed = (tensors for _, tensors in evaluation.tensors(self._task, items, self._color, batch))
        return recipes.quantized(self._prepared, feed, attempt, tensorrt=key.startswith("tensorrt"))

    def _judge(self, key: str, content: bytes, reference: Sequence[Result]) -> Evaluation:
        session = self._session(key, content)
        found = reference if key == self._key else self._answers(session, key)
        latency = evaluation.latency_ms(self._task, session, self._color, self._judged[0])
        return evaluation.evaluate(key, len(content), latency, self._task, found, reference, self._judged)

    def _session(self, key: str, content: bytes) -> Session:
        described = replace(self._manifest, variants={key: replace(_entry(key, {}), file=_file(self._key))})
        return open_session(content, described, key)

    def _answers(self, session: Session, what: str) -> list[Result]:
        try:
            found = evaluation.results(self._task, session, self._judged, self._color)
        except BuildError:
            raise
        except ModelError as error:
            cure = f"Check --labels, --option and that the model does {self._request.task}"
            raise BuildError(f"{what}", str(error), cure) from error
        evaluation.check_numbers(self._manifest, found, self._judged, what)
        return found

    # -- what is said and written ----------------------------------------------------------------

    def _line(self, found: Evaluation) -> str:
        state = f"{found.refused}; " if found.refused else ""
        return f"  {found.variant}: {state}{found.how}, {found.latency_ms:.3g} ms, {found.bytes / 1e6:.3g} MB"

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._report(text)

    def _warn_of_chance(self, found: Evaluation) -> None:
        if found.accuracy is not None and self._request.labels and found.accuracy < 1.5 / len(self._request.labels):
            self._note(
                f"warning: the model itself is right on only {found.accuracy:.1%}, as by chance. Check --color, "
                "--scale, --mean, --std and the order of --labels"
            )

    def _compare_speed(self, evaluations: Sequence[Evaluation]) -> None:
        latency = {found.variant: found.latency_ms for found in evaluations if not found.refused}
        if latency.get("cpu-int8", 0.0) > latency[self._key]:
            self._note("cpu-int8 is not faster than fp32 on this processor: measure it on the device before you use it")

    def _write(self, evaluations: list[Evaluation]) -> BuildReport:
        kept = {found.variant: found for found in evaluations if not found.refused}
        order = [key for key in (*VARIANTS, *kept) if key in kept]
        order = list(dict.fromkeys(order))
        inputs = [item.load(self._color) for item in self._judged[: self._graph.batch or COUNT]]
        models = {key: self._files[_file(key)] for key in order}
        variants = {key: _entry(key, kept[key].metrics) for key in order}
        described = make_manifest(self._files, **_fields(self._manifest) | {"variants": variants})
        self._files |= golden_files(described, self._task, models, inputs)
        self._files["calibration.json"] = (json.dumps(self._calibration_summary(), indent=2) + "\n").encode()
        fields = _fields(self._manifest) | {"variants": variants, "golden": GOLDEN}
        text = card.text(make_manifest(self._files, **fields), evaluations, self._notes)
        self._files["CARD.md"] = text.encode()
        manifest = make_manifest(self._files, **fields)
        self._report(f"writing {self._request.out}")
        write_bundle(self._request.out, manifest, self._files)
        return BuildReport(manifest=manifest, evaluations=evaluations, notes=self._notes)

    def _calibration_summary(self) -> dict[str, Any]:
        return {
            "inputs": [item.name for item in self._calibration], "evaluated_on": [item.name for item in self._judged],
            "variants": self._summary,
        }  # fmt: skip


def _file(key: str) -> str:
    return f"{key}.{'tflite' if key.startswith('tflite') else 'onnx'}"


def _entry(key: str, metrics: dict[str, float]) -> Variant:
    precision: Literal["fp32", "fp16", "int8"] = "int8" if key.endswith("int8") else "fp16" if key == "fp16" else "fp32"
    lite = key.startswith("tflite")
    return Variant(
        file=_file(key), format="tflite" if lite else "onnx", precision=precision, runners=RUNNERS[key], metrics=metrics
    )


def _failed(key: str, reason: str) -> Evaluation:
    return Evaluation(
        variant=key, bytes=0, latency_ms=0.0, agreement=0.0, accuracy=None, error=None, loss=1.0, how="not evaluated",
        refused=reason,
    )  # fmt: skip


def _fields(manifest: Manifest) -> dict[str, Any]:
    """The fields of a manifest except its files."""
    return {name: getattr(manifest, name) for name in Manifest.__slots__ if name != "files"}
