"""Builds a bundle from an ONNX file: check, quantize, evaluate, write."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from cloud_hub.models import card, evaluation
from cloud_hub.models.data import Item, calibration_part, read_items, split
from cloud_hub.models.errors import BuildError
from cloud_hub.models.evaluation import Evaluation
from cloud_hub.models.golden import COUNT, GOLDEN, golden_files
from cloud_hub.models.graph import Graph, read_graph
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
from cloud_hub.models.variants import Made, Material, Report, VariantBuilder, entry, file_name, session_for
from cloud_hub.models.writer import check_free, make_manifest, write_bundle
from shared.models.manifest import Manifest
from shared.tasks import Array, open_task
from shared.tasks.anomaly import Anomaly


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
    manifest = _settled(request, graph, _described(request, graph, calibration, judged), calibration)
    task = open_task(manifest, graph.reference)
    material = Material(
        graph=graph, manifest=manifest, task=task, calibration=calibration, judged=judged,
        tolerance=request.tolerance, report=report,
    )  # fmt: skip
    notes = list(graph.notes)
    made = _variants(request, material, notes)
    report(f"writing {request.out}")
    return BuildReport(
        manifest=_write(request, material, made, notes), evaluations=[one.evaluation for one in made], notes=notes
    )


def _check(request: BuildRequest) -> None:
    unknown = [key for key in request.variants if key not in VARIANTS]
    if unknown:
        raise BuildError("--variants", f"there is no variant '{unknown[0]}'", f"Known: {', '.join(VARIANTS)}")
    if not 0.0 <= request.tolerance <= 1.0:
        raise BuildError("--tolerance", f"{request.tolerance} is no share", "Give a number in 0..1, such as 0.02")


def _read(request: BuildRequest) -> Graph:
    if request.onnx.suffix != ".tflite":
        return read_graph(request.onnx, request.shape)
    from cloud_hub.models.tflite import read_tflite  # noqa: PLC0415 - extra `litert`

    return read_tflite(request.onnx)


def _data(request: BuildRequest) -> tuple[list[Item], list[Item]]:
    """Inputs for calibration and for evaluation; no input is in both."""
    items = read_items(request.calibration, request.labels)
    if request.evaluation is None:
        return split(items, str(request.calibration))
    halves = split(read_items(request.evaluation, request.labels), str(request.evaluation))
    return calibration_part(items, str(request.calibration)), [*halves[0], *halves[1]]


# -- the manifest ------------------------------------------------------------------------------------


def _described(request: BuildRequest, graph: Graph, calibration: Sequence[Item], judged: Sequence[Item]) -> Manifest:
    """The manifest with the reference as its only variant, as far as the graph and the request tell."""
    spec, outputs = input_spec(request, graph), ordered_outputs(request, graph.outputs)
    tools = {name: version(name) for name in ("onnx", "onnxruntime", "numpy", "tidegate")}
    provenance = {
        "source": request.onnx.name,
        "calibration": f"{request.calibration.name}, {len(calibration)} inputs; evaluated on {len(judged)} others",
        "tools": ", ".join(f"{name} {number}" for name, number in tools.items()),
        "machine": f"{platform.machine()} {platform.system()}",
    }
    try:
        return make_manifest(
            {file_name(graph.reference): graph.content}, name=request.name or request.onnx.stem,
            version=request.version, task=request.task, labels=list(request.labels), inputs=[spec], outputs=outputs,
            preprocess=preprocessing(request, spec), task_options=task_options(request, outputs), batch=graph.batch,
            licence=request.licence, variants={graph.reference: entry(graph.reference, {})},
            provenance=provenance | request.provenance,
        )  # fmt: skip
    except ValueError as error:
        raise BuildError("the bundle's manifest", str(error), "Correct the labels or the options") from error


def _settled(request: BuildRequest, graph: Graph, manifest: Manifest, calibration: Sequence[Item]) -> Manifest:
    """The manifest with the options that the reference's outputs on the calibration data tell."""
    probe: Options = {"threshold": 0.0} if request.task == "anomaly" else {}
    made = replace(manifest, task_options=probe | manifest.task_options)
    task, session = open_task(made, graph.reference), session_for(made, graph.reference, graph.content)
    first: list[Array] = []
    scores: list[Array] = []
    for inputs, batch in evaluation.tensors(task, _normal(request, calibration), made.preprocess.color, session.batch):
        outputs = session.run(batch)
        first.append(np.atleast_1d(outputs[made.outputs[0].name]))
        if isinstance(task, Anomaly):
            filled = inputs + inputs[-1:] * (len(first[-1]) - len(inputs))
            scores.append(task.scores(outputs, filled)[: len(inputs)])
    options = measured_options(
        request.task, manifest.task_options, np.concatenate(first), np.concatenate(scores) if scores else None
    )
    return replace(manifest, task_options=options)


def _normal(request: BuildRequest, calibration: Sequence[Item]) -> Sequence[Item]:
    """Calibration inputs; of an anomaly model only those known to be normal, when that is known."""
    normal = request.labels[0] if request.labels else "normal"
    known = [item for item in calibration if item.truth == normal]
    return known if request.task == "anomaly" and known else calibration


# -- variants ----------------------------------------------------------------------------------------


def _variants(request: BuildRequest, material: Material, notes: list[str]) -> list[Made]:
    """The reference, then the others that are wanted and possible."""
    builder = VariantBuilder(material)
    reference = builder.reference()
    found = [reference]
    for note in _doubts(request, reference.evaluation):
        notes.append(note)
        material.report(note)
    for key in request.variants:
        if key == material.graph.reference or material.graph.model is None:
            continue
        if builder.possible(key):
            found.append(builder.make(key))
        else:
            notes.append(f"{key}: left out, the graph has no convolution or matrix product")
            material.report(notes[-1])
    if _slower(found, reference):
        notes.append("cpu-int8 is not faster than fp32 on this processor: measure it on the device before you use it")
        material.report(notes[-1])
    return found


def _doubts(request: BuildRequest, reference: Evaluation) -> list[str]:
    """A warning when the model itself is right no more often than by chance."""
    if reference.accuracy is None or not request.labels or reference.accuracy >= 1.5 / len(request.labels):
        return []
    return [
        f"warning: the model itself is right on only {reference.accuracy:.1%}, as by chance. Check --color, --scale, "
        "--mean, --std and the order of --labels"
    ]


def _slower(found: Sequence[Made], reference: Made) -> bool:
    kept = {made.evaluation.variant: made.evaluation.latency_ms for made in found if made.content}
    return kept.get("cpu-int8", 0.0) > reference.evaluation.latency_ms


# -- what is written ---------------------------------------------------------------------------------


def _write(request: BuildRequest, material: Material, made: Sequence[Made], notes: Sequence[str]) -> Manifest:
    """Write the bundle; returns its manifest."""
    kept = {one.evaluation.variant: one for one in made if one.content}
    order = sorted(kept, key=lambda key: VARIANTS.index(key) if key in VARIANTS else len(VARIANTS))
    models = {key: kept[key].content for key in order}
    files = {file_name(key): content for key, content in models.items()}
    fields = _fields(material.manifest) | {"variants": {key: entry(key, kept[key].evaluation.metrics) for key in order}}
    inputs = [
        item.load(material.manifest.preprocess.color) for item in material.judged[: material.graph.batch or COUNT]
    ]
    files |= golden_files(make_manifest(files, **fields), material.task, models, inputs)
    files["calibration.json"] = (json.dumps(_summary(material, kept), indent=2) + "\n").encode()
    fields["golden"] = GOLDEN
    described = make_manifest(files, **fields)
    files["CARD.md"] = card.text(described, [one.evaluation for one in made], notes).encode()
    manifest = make_manifest(files, **fields)
    write_bundle(request.out, manifest, files)
    return manifest


def _summary(material: Material, kept: dict[str, Made]) -> dict[str, Any]:
    """The calibration summary: which inputs were used for what, and how each variant was quantized."""
    return {
        "inputs": [item.name for item in material.calibration],
        "evaluated_on": [item.name for item in material.judged],
        "variants": {key: made.summary for key, made in kept.items() if made.summary},
    }


def _fields(manifest: Manifest) -> dict[str, Any]:
    """The fields of a manifest except its files."""
    return {name: getattr(manifest, name) for name in Manifest.__slots__ if name != "files"}
