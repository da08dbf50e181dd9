"""What a build is asked for, and the settings of a task that it finds out by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cloud_hub.models.errors import BuildError
from cloud_hub.models.graph import Graph
from shared.models.manifest import CHANNELS, Color, Preprocess, TensorSpec
from shared.tasks.windows import LAYOUTS as WINDOW_LAYOUTS

VARIANTS = ("cpu-int8", "tensorrt-int8", "fp16", "fp32")
TOLERANCE = 0.02
Options = dict[str, float | str | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """A build. Empty settings are found out: layout and colour from the input's shape, the head of a detector from its
    outputs. `constants` are the values of inputs that no task feeds.

    `tolerance` is the largest loss of a variant: of accuracy where labels are known, else of agreement with FP32.
    """

    onnx: Path
    task: str
    calibration: Path
    out: Path
    labels: Sequence[str] = ()
    evaluation: Path | None = None
    name: str = ""
    version: str = "1.0.0"
    licence: str = ""
    shape: Sequence[int] = ()
    constants: dict[str, Sequence[float]] = field(default_factory=dict)
    layout: str = ""
    color: str = ""
    resize: str = ""
    scale: float | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    options: Options = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    variants: Sequence[str] = VARIANTS
    tolerance: float = TOLERANCE


def input_specs(request: BuildRequest, graph: Graph) -> list[TensorSpec]:
    """The model's inputs with their layouts; raises BuildError when those cannot be told from the shapes."""
    layouts = request.layout.split(",") if request.layout else [""] * len(graph.inputs)
    if len(layouts) != len(graph.inputs):
        names = ", ".join(spec.name for spec in graph.inputs)
        reason = f"'{request.layout}' for {len(graph.inputs)} inputs ({names})"
        raise BuildError("--layout", reason, "Give one for each input, with commas between")
    return [_with_layout(request.task, spec, layout) for spec, layout in zip(graph.inputs, layouts, strict=True)]


def _with_layout(task: str, spec: TensorSpec, given: str) -> TensorSpec:
    layout = given.strip() or _layout(task, spec.shape)
    if not layout:
        cure = f"Give --layout: NCHW, NHWC or NHW of images, {', '.join(WINDOW_LAYOUTS)} of windows"
        raise BuildError("--layout", f"input '{spec.name}' of {list(spec.shape)} could be several things", cure)
    try:
        return replace(spec, layout=layout)
    except ValueError as error:
        raise BuildError("--layout", str(error), "Name the batch and each side, such as NCHW") from error


def _layout(task: str, shape: Sequence[int]) -> str:
    if len(shape) == 3:
        return "NCHW" if shape[0] in (1, 3) or shape[0] <= min(shape[1:]) else "NHWC"
    if len(shape) == 2:
        return "" if task in ("detection", "segmentation") else "NTC"
    return "NC" if len(shape) == 1 else ""


def preprocessing(request: BuildRequest, specs: Sequence[TensorSpec]) -> Preprocess:
    """How frames become the input; raises BuildError."""
    spec = specs[0]
    image = spec.layout not in WINDOW_LAYOUTS
    channels = spec.side("C") if "C" in spec.layout else 1
    color: Color = "gray" if channels == 1 else "rgb"
    usual = 1 / 255 if image and spec.dtype.startswith("float") else 1.0
    resize = request.resize or ("letterbox" if request.task == "detection" else "stretch") if image else "none"
    try:
        return Preprocess(
            color=request.color or color, resize=resize, scale=usual if request.scale is None else request.scale,  # type: ignore[arg-type]
            mean=list(request.mean), std=list(request.std),
        )  # fmt: skip
    except ValueError as error:
        raise BuildError("--scale, --mean, --std", str(error), f"Known colours: {', '.join(CHANNELS)}") from error


def ordered_outputs(request: BuildRequest, outputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Outputs in the order that the task reads: a detector's boxes, scores, classes; else as the graph has them."""
    if request.task != "detection" or len(outputs) < 2:
        return list(outputs)
    boxes = [spec for spec in outputs if spec.shape[-1:] == (4,)][:1]
    rest = [spec for spec in outputs if spec not in boxes]
    return boxes + sorted(rest, key=lambda spec: (len(spec.shape) == 0, "class" in spec.name or "label" in spec.name))


def head(outputs: Sequence[TensorSpec], labels: int) -> str:
    """The head of a detector by the shapes of its outputs; '' when none fits."""
    if len(outputs) >= 3:
        return "boxes"
    if len(outputs) == 2:
        return "ssd"
    shape = outputs[0].shape
    if 5 + labels in shape[1:]:
        return "yolov5"
    if 4 + labels in shape:
        return "yolov8"
    return "end2end" if shape[-1:] == (6,) else ""


def task_options(request: BuildRequest, outputs: Sequence[TensorSpec]) -> Options:
    """The options of the task as far as shapes tell them; raises BuildError."""
    options = dict(request.options)
    if request.task == "detection":
        name = str(options.setdefault("head", head(outputs, len(request.labels))))
        if not name:
            shapes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs)
            cure = "Give --option head=..., or the labels that the model was trained with"
            raise BuildError("--option head", f"outputs {shapes} fit no head with {len(request.labels)} labels", cure)
        if name == "ssd":
            options.setdefault("background", outputs[1].shape[-1] == len(request.labels) + 1)
    return options
