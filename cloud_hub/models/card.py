"""The model card of a bundle, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_hub.models.evaluation import Evaluation
from shared.models.manifest import Manifest, Preprocess, TensorSpec


def text(manifest: Manifest, evaluations: Sequence[Evaluation], notes: Sequence[str]) -> str:
    """The card: what the model reads and gives, what was measured, where it comes from."""
    labels = ", ".join(manifest.labels[:20]) + (f" and {len(manifest.labels) - 20} more" * (len(manifest.labels) > 20))
    parts = [
        f"# {manifest.name} {manifest.version}",
        f"Task: {manifest.task}. Licence: {manifest.licence or 'not stated'}.",
        "## Inputs and outputs",
        "\n".join([*map(_tensor, manifest.inputs), *map(_tensor, manifest.outputs)]),
        _preprocess(manifest.preprocess),
        f"Labels: {labels or 'none'}.",
        _options(manifest),
        "## Measured",
        "On inputs that no variant was calibrated on; latency of one input, one thread, on the machine of the build.",
        table(evaluations),
        *_worst(evaluations),
        "## Origin",
        "\n".join(f"- {name}: {value}" for name, value in manifest.provenance.items()),
        *(["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(evaluations: Sequence[Evaluation]) -> str:
    """A Markdown table with a row for each variant."""
    lines = ["| variant | accuracy | agreement | latency | size | in the bundle |", "|---" * 6 + "|"]
    for row in evaluations:
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.1%}"
        accuracy = accuracy if row.error is None else f"error {row.error:.4g}"
        state = f"no: {row.refused}".replace("|", "/") if row.refused else "yes"
        cells = [row.variant, accuracy, f"{row.agreement:.1%}", f"{row.latency_ms:.3g} ms", f"{row.bytes:,} B"]
        lines.append("| " + " | ".join([*cells, state]) + " |")
    return "\n".join(lines)


def _tensor(spec: TensorSpec) -> str:
    return f"- `{spec.name}`: {spec.dtype} {list(spec.shape)} {spec.layout}".rstrip()


def _preprocess(preprocess: Preprocess) -> str:
    parts = [f"colour {preprocess.color}", f"resize {preprocess.resize}", f"scale {preprocess.scale:.6g}"]
    parts += [f"mean {preprocess.mean}"] * bool(preprocess.mean) + [f"std {preprocess.std}"] * bool(preprocess.std)
    return f"Preprocessing: {', '.join(parts)}."


def _options(manifest: Manifest) -> str:
    given = ", ".join(f"{name} {value}" for name, value in manifest.task_options.items())
    return f"Options of the task: {given}." if given else ""


def _worst(evaluations: Sequence[Evaluation]) -> list[str]:
    lines = [f"- {variant.variant}: {line}" for variant in evaluations for line in variant.worst]
    return ["## Inputs on which a variant differs most", "\n".join(lines)] if lines else []
