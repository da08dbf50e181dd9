"""model: builds a bundle from an ONNX file, shows it, and runs its golden inputs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_hub.cli import Commands, clean

if TYPE_CHECKING:
    from cloud_hub.models.build import BuildReport
    from cloud_hub.models.check import Check
    from shared.models.bundle import Bundle
    from shared.models.manifest import Manifest

BUILD = """
Checks and simplifies the ONNX file, quantizes it for the CPU and for TensorRT, compares each variant with FP32 on
inputs that it was not calibrated on, and writes a bundle. A variant that loses more than --tolerance is left out.

exit codes: 0 the bundle is written; 1 it is not, and nothing was left behind; 2 usage; 78 a package is missing
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    text = "model bundles: build, show, check"
    groups = commands.add_parser("model", help=text, description=text).add_subparsers(required=True, metavar="ACTION")
    _add_build(groups)
    for name, text, action in (
        ("show", "verify a bundle and print what is in it", _show),
        ("check", "run a bundle's golden inputs and compare with the build", _check),
    ):
        parser = groups.add_parser(name, help=text, description=text)
        parser.add_argument("bundle", type=Path, metavar="DIR")
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(action=action)


def _add_build(groups: Commands) -> None:
    parser = groups.add_parser(
        "build", help="build a bundle from an ONNX file", description=BUILD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--onnx", type=Path, metavar="FILE", help="the model, in float")
    source.add_argument("--tflite", type=Path, metavar="FILE.tflite", help="or a TensorFlow Lite file, taken as it is")
    parser.add_argument("--task", required=True, help="classification, detection, segmentation, anomaly, ...")
    parser.add_argument(
        "--calibration", type=Path, required=True, metavar="DIR|NPZ",
        help="pictures (a subfolder for each label gives the truth), or an npz with 'inputs' and perhaps 'labels'",
    )  # fmt: skip
    parser.add_argument("--evaluation", type=Path, metavar="DIR|NPZ", help="other inputs (default: half of these)")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="the labels, one a line, in the model's order")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--tolerance", type=float, default=0.02, metavar="SHARE",
        help="largest loss of a variant, of accuracy or else of agreement with FP32 (default 0.02)",
    )  # fmt: skip
    parser.add_argument("--variants", type=_words, metavar="LIST", help="such as cpu-int8,fp16 (default: all)")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")
    _add_settings(parser)
    parser.set_defaults(action=_build)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("the model (found out by its shapes unless given)")
    model.add_argument("--shape", type=_sides, default=[], metavar="CxHxW", help="settles free sides of the input")
    model.add_argument("--layout", default="", help="NCHW, NHWC or NHW of images; NTC, NCT, NT or NC of windows")
    model.add_argument(
        "--constant", action="append", type=_constant, default=[], metavar="INPUT=X,X",
        help="values of an input that is the same for every frame, such as scale_factor=1; repeatable",
    )  # fmt: skip
    model.add_argument("--color", default="", choices=["", "gray", "rgb", "bgr"])
    model.add_argument("--resize", default="", choices=["", "none", "stretch", "letterbox"])
    model.add_argument("--scale", type=float, metavar="X", help="pixels are multiplied by it (default 1/255)")
    model.add_argument("--mean", type=_numbers, default=[], metavar="X,X,X", help="subtracted after that")
    model.add_argument("--std", type=_numbers, default=[], metavar="X,X,X", help="divides after that")
    model.add_argument(
        "--option", action="append", type=_pair, default=[], metavar="NAME=VALUE",
        help="an option of the task, such as confidence=0.4; repeatable",
    )  # fmt: skip
    about = parser.add_argument_group("what the manifest says")
    about.add_argument("--name", default="", help="(default: the file's)")
    about.add_argument("--version", default="1.0.0", help="(default 1.0.0)")
    about.add_argument("--licence", default="", metavar="TEXT")
    about.add_argument("--provenance", action="append", type=_pair, default=[], metavar="NAME=TEXT", help="repeatable")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in _words(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number for each channel, such as 0.5,0.5,0.5") from error


def _sides(text: str) -> list[int]:
    try:
        return [int(side) for side in text.replace(",", "x").split("x")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not sides without the batch, such as 3x224x224") from error


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


def _constant(text: str) -> tuple[str, list[float]]:
    name, values = _pair(text)
    return name, _numbers(values)


def _option(value: str) -> float | str | bool:
    """A value as TOML would read it: true, false, a number, or else text."""
    if value in ("true", "false"):
        return value == "true"
    try:
        return float(value)
    except ValueError:
        return value


def _build(arguments: argparse.Namespace) -> int:
    from cloud_hub.models.build import build  # noqa: PLC0415 - onnx and ONNX Runtime
    from cloud_hub.models.request import VARIANTS, BuildRequest  # noqa: PLC0415

    given = arguments
    request = BuildRequest(
        onnx=given.onnx or given.tflite, task=given.task, calibration=given.calibration, evaluation=given.evaluation,
        out=given.out, labels=_labels(given.labels), tolerance=given.tolerance, variants=given.variants or VARIANTS,
        shape=given.shape, constants=dict(given.constant), layout=given.layout, color=given.color,
        resize=given.resize, scale=given.scale, mean=given.mean, std=given.std,
        options={name: _option(value) for name, value in given.option},
        name=given.name, version=given.version, licence=given.licence, provenance=dict(given.provenance),
    )  # fmt: skip
    report = build(request, lambda text: print(clean(text), file=sys.stderr, flush=True))
    print(json.dumps(_measured(report)) if given.json else _next_steps(given.out, report))
    return 0


def _labels(path: Path | None) -> list[str]:
    from cloud_hub.models.errors import BuildError  # noqa: PLC0415

    if path is None:
        return []
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(str(path), f"cannot be read ({error})", "Give a text file with one label a line") from error


def _measured(report: BuildReport) -> dict[str, Any]:
    return {
        "name": report.manifest.name, "digest": report.manifest.digest, "notes": report.notes,
        "variants": {
            figures.variant: {
                "metrics": figures.metrics, "loss": figures.loss, "refused": figures.refused, "worst": figures.worst,
            }
            for figures in report.evaluations
        },
    }  # fmt: skip


def _next_steps(out: Path, report: BuildReport) -> str:
    kept = ", ".join(report.manifest.variants)
    refused = [
        f"left out: {figures.variant}: {clean(figures.refused)}" for figures in report.evaluations if figures.refused
    ]
    return "\n".join([f"{out}: {kept}", *refused, f"Read {out / 'CARD.md'}, then: tidegate-hub model check {out}"])


def _load(folder: Path) -> Bundle:
    from cloud_hub.models.errors import BuildError  # noqa: PLC0415
    from shared.models.bundle import MANIFEST, load  # noqa: PLC0415

    if not (folder / MANIFEST).is_file():
        raise BuildError(str(folder), f"holds no {MANIFEST}", "Give the folder that `model build --out` wrote")
    return load(folder)


def _show(arguments: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415

    manifest = _load(arguments.bundle).manifest
    if arguments.json:
        print(msgspec.json.encode(manifest).decode())
    else:
        print("\n".join(clean(line) for line in _lines(manifest)))
    return 0


def _lines(manifest: Manifest) -> list[str]:
    more = len(manifest.labels) - 10
    labels = ", ".join(manifest.labels[:10]) + (f" and {more} more" if more > 0 else "")
    tensors = [
        f"{what:10}{spec.name}  {spec.dtype} {list(spec.shape)} {spec.layout}".rstrip()
        for what, specs in (("input", manifest.inputs), ("output", manifest.outputs))
        for spec in specs
    ]
    variants = [
        f"{key:15}{', '.join(variant.runners):18}{manifest.files[variant.file].size:>12,} B  "
        + "  ".join(f"{name} {value:g}" for name, value in variant.metrics.items() if name != "bytes")
        for key, variant in manifest.variants.items()
    ]
    pixels = manifest.preprocess
    return [
        f"{manifest.name} {manifest.version}: {manifest.task}, {len(manifest.files)} files, all as the manifest says",
        f"digest    {manifest.digest}", f"labels    {labels or 'none'}", *tensors,
        f"batch     {manifest.batch or 'any'}",
        f"pixels    {pixels.color}, resize {pixels.resize}, scale {pixels.scale:.6g}",
        f"          mean {pixels.mean}, std {pixels.std}",
        *(f"option    {name} = {value}" for name, value in manifest.task_options.items()),
        *(f"origin    {name}: {value}" for name, value in manifest.provenance.items()),
        f"licence   {manifest.licence or 'not stated'}", "", *variants,
    ]  # fmt: skip


def _check(arguments: argparse.Namespace) -> int:
    from cloud_hub.models.check import check_bundle  # noqa: PLC0415

    checks = check_bundle(_load(arguments.bundle))
    if arguments.json:
        fields = ("variant", "agreement", "difference", "problem", "skipped")
        print(json.dumps([{name: getattr(check, name) for name in fields} for check in checks]))
    else:
        print("\n".join(_check_line(check) for check in checks))
    return int(any(check.problem for check in checks))


def _check_line(check: Check) -> str:
    if check.skipped:
        return f"{check.variant:15}not run: {check.skipped}"
    state = clean(check.problem) or "ok"
    return f"{check.variant:15}{state}: agreement {check.agreement:.1%}, largest difference {check.difference:.3g}"
