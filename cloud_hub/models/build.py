"""Builds a bundle from an ONNX file: check, quantize, evaluate, write."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cloud_hub.models import card
from cloud_hub.models.data import Item, calibration_part, read_items, split, unknown_subfolders
from cloud_hub.models.errors import BuildError
from cloud_hub.models.evaluation import Evaluation
from cloud_hub.models.golden import COUNT, GOLDEN, golden_files
from cloud_hub.models.graph import Graph, read_graph
from cloud_hub.models.measured import with_measured_options
from cloud_hub.models.request import (
    VARIANTS,
    BuildRequest,
    input_specs,
    ordered_outputs,
    preprocessing,
    task_options,
)
from cloud_hub.models.variants import BuiltVariant, Material, Report, VariantBuilder, entry, file_name
from cloud_hub.models.writer import check_absent, make_manifest, write_bundle
from shared.models.manifest import Manifest, TensorSpec
from shared.tasks import open_task


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build gave: the manifest as written, and what was measured of each variant, refused ones too."""

    manifest: Manifest
    evaluations: list[Evaluation]
    notes: list[str]


def build(request: BuildRequest, report: Report = lambda _text: None) -> BuildReport:
    """Build the bundle; raises BuildError, and then nothing was written. `report` gets a line for each step."""
    check_absent(request.out)
    _check(request)
    try:
        return _build(request, report)
    except OSError as error:  # files of the input and of the bundle have errors of their own
        reason = f"a temporary file cannot be written ({error.strerror or error})"
        raise BuildError(tempfile.gettempdir(), reason, "Free space there, or set TMPDIR to another folder") from error


def _build(request: BuildRequest, report: Report) -> BuildReport:
    report(f"reading {request.onnx.name}")
    graph = _read(request)
    for note in graph.notes:
        report(f"  {note}")
    inputs = input_specs(request, graph)
    calibration, held_out = _data(request, inputs, report)
    report(f"{len(calibration)} inputs for calibration, {len(held_out)} others for evaluation")
    manifest = with_measured_options(_described(request, graph, inputs, calibration, held_out), graph, calibration)
    task = open_task(manifest, graph.reference)
    material = Material(
        graph=graph, manifest=manifest, task=task, calibration=calibration, held_out=held_out,
        tolerance=request.tolerance, report=report,
    )  # fmt: skip
    notes = list(graph.notes)
    variants = _variants(request, material, notes)
    report(f"writing {request.out}")
    return BuildReport(
        manifest=_write(request, material, variants, notes),
        evaluations=[variant.evaluation for variant in variants],
        notes=notes,
    )


def _check(request: BuildRequest) -> None:
    unknown = [key for key in request.variants if key not in VARIANTS]
    if unknown:
        raise BuildError("--variants", f"there is no variant '{unknown[0]}'", f"Known: {', '.join(VARIANTS)}")
    if not 0.0 <= request.tolerance <= 1.0:
        raise BuildError("--tolerance", f"{request.tolerance} is no share", "Give a number in 0..1, such as 0.02")
    if request.task == "classification" and len(request.labels) < 2:
        cure = "Give a text file with one label a line, in the order of the model's outputs"
        raise BuildError("--labels", f"a classification has at least two labels, it has {len(request.labels)}", cure)


def _read(request: BuildRequest) -> Graph:
    if request.onnx.suffix != ".tflite":
        return read_graph(request.onnx, request.shape, request.constants)
    from cloud_hub.models.tflite import read_tflite  # noqa: PLC0415 - extra `litert`

    return read_tflite(request.onnx)


def _data(request: BuildRequest, inputs: Sequence[TensorSpec], report: Report) -> tuple[list[Item], list[Item]]:
    """Inputs for calibration and for evaluation; no input is in both."""
    items = read_items(request.calibration, request.labels, inputs)
    if request.evaluation is None:
        _report_unknown(request, request.calibration, items, report)
        return split(items, str(request.calibration))
    others = read_items(request.evaluation, request.labels, inputs)
    _report_unknown(request, request.evaluation, others, report)
    halves = split(others, str(request.evaluation))
    return calibration_part(items, str(request.calibration)), [*halves[0], *halves[1]]


def _report_unknown(request: BuildRequest, path: Path, items: Sequence[Item], report: Report) -> None:
    """Say which subfolders keep the accuracy of a classification from being measured."""
    if request.task == "classification" and (unknown := unknown_subfolders(path, items, request.labels)):
        names = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        report(f"{path}: accuracy is not measured, because these subfolders are no labels: {names}")


# -- the manifest ------------------------------------------------------------------------------------


def _described(
    request: BuildRequest, graph: Graph, inputs: Sequence[TensorSpec], calibration: Sequence[Item],
    held_out: Sequence[Item],
) -> Manifest:  # fmt: skip
    """The manifest with the reference as its only variant, as far as the graph and the request tell."""
    outputs = ordered_outputs(request, graph.outputs)
    tools = {name: version(name) for name in ("onnx", "onnxruntime", "numpy", "tidegate")}
    provenance = {
        "source": request.onnx.name,
        "calibration": f"{request.calibration.name}, {len(calibration)} inputs; evaluated on {len(held_out)} others",
        "tools": ", ".join(f"{name} {number}" for name, number in tools.items()),
        "machine": f"{platform.machine()} {platform.system()}",
    }
    try:
        return make_manifest(
            {file_name(graph.reference): graph.content}, name=request.name or request.onnx.stem,
            version=request.version, task=request.task, labels=list(request.labels), inputs=list(inputs),
            outputs=outputs, preprocess=preprocessing(request, inputs),
            task_options=task_options(request, outputs), batch=graph.batch,
            licence=request.licence, variants={graph.reference: entry(graph.reference, {})},
            provenance=provenance | request.provenance,
        )  # fmt: skip
    except ValueError as error:
        raise BuildError("the bundle's manifest", str(error), "Correct the labels or the options") from error


# -- variants ----------------------------------------------------------------------------------------


def _variants(request: BuildRequest, material: Material, notes: list[str]) -> list[BuiltVariant]:
    """The reference, then the others that are wanted and possible."""
    builder = VariantBuilder(material)
    reference = builder.reference()
    variants = [reference]
    for note in _accuracy_warning(request, reference.evaluation):
        notes.append(note)
        material.report(note)
    for key in request.variants:
        if key == material.graph.reference or material.graph.model is None:
            continue
        if builder.possible(key):
            variants.append(builder.make(key))
        else:
            notes.append(f"{key}: left out, the graph has no convolution or matrix product")
            material.report(notes[-1])
    if _int8_is_slower(variants, reference):
        notes.append("cpu-int8 is not faster than fp32 on this processor: measure it on the device before you use it")
        material.report(notes[-1])
    return variants


def _accuracy_warning(request: BuildRequest, reference: Evaluation) -> list[str]:
    """A warning when the model itself is right no more often than by chance."""
    if reference.accuracy is None or not request.labels or reference.accuracy >= 1.5 / len(request.labels):
        return []
    return [
        f"warning: the model itself is right on only {reference.accuracy:.1%}, as by chance. Check --color, --scale, "
        "--mean, --std and the order of --labels"
    ]


def _int8_is_slower(variants: Sequence[BuiltVariant], reference: BuiltVariant) -> bool:
    kept = {variant.evaluation.variant: variant.evaluation.latency_ms for variant in variants if variant.content}
    return kept.get("cpu-int8", 0.0) > reference.evaluation.latency_ms


# -- what is written ---------------------------------------------------------------------------------


def _write(
    request: BuildRequest, material: Material, variants: Sequence[BuiltVariant], notes: Sequence[str]
) -> Manifest:
    """Write the bundle; returns its manifest."""
    kept = {variant.evaluation.variant: variant for variant in variants if variant.content}
    order = sorted(kept, key=lambda key: VARIANTS.index(key) if key in VARIANTS else len(VARIANTS))
    models = {key: kept[key].content for key in order}
    files = {file_name(key): content for key, content in models.items()}
    fields = _fields(material.manifest) | {"variants": {key: entry(key, kept[key].evaluation.metrics) for key in order}}
    inputs = [
        item.load(material.manifest.preprocess.color) for item in material.held_out[: material.graph.batch or COUNT]
    ]
    files |= golden_files(make_manifest(files, **fields), material.task, models, inputs)
    files["calibration.json"] = (json.dumps(_summary(material, kept), indent=2) + "\n").encode()
    fields["golden"] = GOLDEN
    described = make_manifest(files, **fields)
    files["CARD.md"] = card.text(described, [variant.evaluation for variant in variants], notes).encode()
    manifest = make_manifest(files, **fields)
    write_bundle(request.out, manifest, files)
    return manifest


def _summary(material: Material, kept: dict[str, BuiltVariant]) -> dict[str, Any]:
    """The calibration summary: which inputs were used for what, and how each variant was quantized."""
    return {
        "inputs": [item.name for item in material.calibration],
        "evaluated_on": [item.name for item in material.held_out],
        "variants": {key: variant.summary for key, variant in kept.items() if variant.summary},
    }


def _fields(manifest: Manifest) -> dict[str, Any]:
    """The fields of a manifest except its files."""
    return {name: getattr(manifest, name) for name in Manifest.__slots__ if name != "files"}
