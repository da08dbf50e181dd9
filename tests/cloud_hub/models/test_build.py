"""Bundles from ONNX files: every task, every variant, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from examiners.tasks import examine_task
from onnx import TensorProto, helper
from PIL import Image
from simulators import trained_models as models
from simulators.disks import on_small_disk
from simulators.tensorrt_builder import build_engine, tensorrt
from simulators.trained_models import DIGITS, TASKS

from cloud_hub.models import recipes
from cloud_hub.models.build import BuildReport, build
from cloud_hub.models.check import check_bundle
from cloud_hub.models.errors import BuildError
from cloud_hub.models.request import BuildRequest
from cloud_hub.models.selection import quantized_nodes
from cloud_hub.models.session import OnnxSession
from shared import plugins
from shared.errors import ModelError
from shared.models.bundle import Bundle, load

Built = Callable[[str], tuple[Path, BuildReport]]


@pytest.mark.parametrize("name", TASKS)
def test_a_bundle_of_each_task_is_verified_complete_and_answers_as_at_the_build(built: Built, name: str) -> None:
    folder, report = built(name)
    bundle = load(folder)
    assert bundle.manifest == report.manifest
    assert list(bundle.manifest.variants) == ["cpu-int8", "tensorrt-int8", "fp16", "fp32"]
    for key, variant in bundle.manifest.variants.items():
        assert variant.metrics["bytes"] == len(bundle.model(key))
        assert variant.metrics["latency_ms"] > 0
        assert variant.metrics["agreement"] > 0.5
    assert [(one.variant, one.problem, one.agreement) for one in check_bundle(bundle)] == [
        (key, "", 1.0) for key in bundle.manifest.variants
    ]
    assert sorted(folder.parent.glob(".bundle*")) == [], "nothing half written is left"
    summary = json.loads(bundle.file("calibration.json"))
    assert not set(summary["inputs"]) & set(summary["evaluated_on"])
    assert summary["variants"]["tensorrt-int8"]["ranges"]
    assert bundle.manifest.name in bundle.file("CARD.md").decode()


@pytest.mark.parametrize("name", TASKS)
def test_a_real_model_of_each_task_passes_the_examiner(built: Built, name: str) -> None:
    folder, _ = built(name)
    bundle = load(folder)
    manifest = bundle.manifest
    open_task = plugins.load(plugins.TASKS, manifest.task, "test")
    examine_task(open_task, manifest, OnnxSession(bundle.model("fp32"), manifest).run)


@pytest.mark.parametrize("key", ["tensorrt-int8", "fp16", "fp32"])
@pytest.mark.parametrize("name", TASKS)
def test_tensorrt_parses_and_builds_every_variant_that_names_it(built: Built, name: str, key: str) -> None:
    bundle = load(built(name)[0])
    assert "tensorrt" in bundle.manifest.variants[key].runners
    engine, complaints = build_engine(tensorrt(), bundle.model(key))
    assert complaints == []
    assert len(engine) > 1000


def test_tensorrt_refuses_the_variant_of_the_cpu(built: Built, capfd: pytest.CaptureFixture[str]) -> None:
    """The reason for two INT8 variants; and the proof that the test above can fail."""
    bundle = load(built("classification")[0])
    assert "tensorrt" not in bundle.manifest.variants["cpu-int8"].runners
    engine, complaints = build_engine(tensorrt(), bundle.model("cpu-int8"))
    assert engine == b""
    assert "Int32" in complaints[0]


def test_folders_named_like_labels_give_the_accuracy(built: Built) -> None:
    _, report = built("classification")
    reference = next(one for one in report.evaluations if one.variant == "fp32")
    assert reference.accuracy is not None
    assert reference.accuracy > 0.9
    assert report.manifest.task_options == {"activation": "none"}
    assert report.manifest.preprocess.color == "gray"


def test_an_anomaly_threshold_comes_from_the_normal_inputs(built: Built) -> None:
    _, report = built("anomaly")
    assert report.evaluations[0].accuracy == 1.0
    assert 0 < float(report.manifest.task_options["threshold"]) < 0.1


def test_targets_give_the_error_of_a_regression(built: Built) -> None:
    _, report = built("regression")
    assert report.evaluations[0].error == pytest.approx(0.0, abs=1e-4)
    assert report.manifest.variants["fp32"].metrics["mean_absolute_error"] < 1e-4


# -- tolerance, batch, simplification ----------------------------------------------------------------


def request(folder: Path, model: onnx.ModelProto, **changes: Any) -> BuildRequest:
    """A build of a digits classifier from an npz file, with changes."""
    fields: dict[str, Any] = {
        "onnx": models.saved(model, folder / "m.onnx"), "task": "classification", "labels": DIGITS,
        "calibration": models.digits_npz(folder / "digits.npz", 60), "out": folder / "out",
        "variants": ["fp32"],
    }  # fmt: skip
    return BuildRequest(**(fields | changes))


def test_a_variant_that_loses_more_than_the_tolerance_is_left_out_with_the_reason(tmp_path: Path) -> None:
    windows = tmp_path / "w.npz"
    np.savez(windows, inputs=models.waves(60))
    lines: list[str] = []
    wanted = request(
        tmp_path, models.regressor(), task="tensors", labels=[], calibration=windows, tolerance=0.0001,
        variants=["cpu-int8", "fp32"],
    )  # fmt: skip
    report = build(wanted, lines.append)
    assert list(report.manifest.variants) == ["fp32"]
    refused = next(one for one in report.evaluations if one.variant == "cpu-int8")
    assert "more than --tolerance 0.0%" in refused.refused
    assert refused.worst, "the inputs with the largest difference are named"
    assert any(line.startswith("warning: cpu-int8 is left out: loses") for line in lines)
    assert "no: loses" in load(wanted.out).file("CARD.md").decode()


def test_a_layer_that_loses_too_much_stays_in_float(tmp_path: Path) -> None:
    """The scores of this model differ by less than one step of INT8; all before them may be quantized."""
    made = models.digits_classifier(softmax=False)
    weights = next(one for one in made.graph.initializer if one.name == "bias")
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) + np.float32(4000), "bias"))
    lines: list[str] = []
    report = build(request(tmp_path, made, variants=["cpu-int8", "fp32"]), lines.append)
    assert "cpu-int8" in report.manifest.variants
    assert [line for line in lines if line.startswith("cpu-int8: ")][-1] == "cpu-int8: last layers in float"


@pytest.mark.parametrize("softmax", [True, False])
def test_a_fixed_batch_is_freed_and_logits_are_recognised(tmp_path: Path, softmax: bool) -> None:
    report = build(request(tmp_path, models.digits_classifier(batch=1, softmax=softmax)))
    assert report.manifest.batch == 0
    assert report.manifest.task_options["activation"] == ("none" if softmax else "softmax")
    assert "batch size 1 made free" in report.notes


def bound_to_batch(size: int) -> onnx.ModelProto:
    """A digits classifier that reshapes to a fixed batch."""
    made = models.digits_classifier(batch=size)
    flatten = next(node for node in made.graph.node if node.op_type == "Flatten")
    flatten.CopyFrom(models.node("Reshape", "pooled sides", "flat"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([size, 192], np.int64), "sides"))
    return made


@pytest.mark.parametrize("size", [1, 4])
def test_a_graph_that_is_bound_to_its_batch_keeps_it(tmp_path: Path, size: int) -> None:
    report = build(request(tmp_path, bound_to_batch(size), variants=["cpu-int8", "fp32"]))
    assert report.manifest.batch == size
    assert list(report.manifest.variants) == ["cpu-int8", "fp32"]
    assert not any(one.problem for one in check_bundle(load(tmp_path / "out")))


def test_an_old_operator_set_is_converted(tmp_path: Path) -> None:
    report = build(request(tmp_path, models.digits_classifier(softmax=False, opset=12)))
    assert "operator set 12 converted to 17" in report.notes


def test_preprocessing_before_the_first_layer_and_scores_behind_the_last_stay_in_float() -> None:
    made = models.digits_classifier()
    made.graph.node.insert(0, models.node("Neg", "image", "negative"))
    made.graph.node[1].input[0] = "negative"
    prepared = recipes.prepared(made)
    feed = [{"image": np.random.default_rng(1).random((8, 1, 8, 8)).astype(np.float32)}]
    found = recipes.quantized(prepared, feed, recipes.ATTEMPTS[0], tensorrt=True)
    quantized = {node.input[0] for node in found.graph.node if node.op_type == "QuantizeLinear"}
    assert "image" not in quantized
    assert "negative" in quantized
    assert "probabilities" not in quantized


def test_ranges_are_clipped_when_nothing_else_keeps_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_hub.models.variants.ATTEMPTS", recipes.ATTEMPTS[2:])
    report = build(request(tmp_path, models.digits_classifier(), variants=["cpu-int8", "fp32"]))
    assert "cpu-int8" in report.manifest.variants
    summary = json.loads(load(tmp_path / "out").file("calibration.json"))
    assert summary["variants"]["cpu-int8"]["way"] == "last layers in float, ranges clipped"


def test_the_expectation_of_a_yolo_box_stays_in_float() -> None:
    """The last layers are the box and class convolutions; what follows computes distances that 8 bits would blur."""
    prepared = recipes.prepared(models.yolo_head())
    chosen = quantized_nodes(prepared, keep_last=False)
    names = {node.name: node.op_type for node in prepared.graph.node}
    assert {name for name in chosen if names[name] == "Conv"} == {"stem", "box", "class"}
    assert not any(names[name] in {"Concat", "Softmax", "Transpose"} for name in chosen)
    feed = [{"images": np.random.default_rng(1).random((8, 3, 16, 16)).astype(np.float32)}]
    found = recipes.quantized(prepared, feed, recipes.ATTEMPTS[0], tensorrt=True)
    engine, complaints = build_engine(tensorrt(), found.SerializeToString())
    assert complaints == []
    assert engine


def test_tensorrt_builds_a_quantized_mobile_network() -> None:
    """Constants that are added or multiplied must stay in float: TensorRT refuses them as INT8."""
    prepared = recipes.prepared(models.mobile())
    feed = [{"images": np.random.default_rng(1).random((8, 3, 16, 16)).astype(np.float32)}]
    found = recipes.quantized(prepared, feed, recipes.ATTEMPTS[0], tensorrt=True)
    assert {node.op_type for node in found.graph.node} >= {"QuantizeLinear", "HardSwish"}
    engine, complaints = build_engine(tensorrt(), found.SerializeToString())
    assert complaints == []
    assert engine


def test_other_data_for_the_evaluation_leave_all_the_rest_for_calibration(tmp_path: Path) -> None:
    wanted = request(tmp_path, models.digits_classifier(), evaluation=models.digits_folder(tmp_path / "other", 40))
    build(wanted)
    summary = json.loads(load(wanted.out).file("calibration.json"))
    assert (len(summary["inputs"]), len(summary["evaluated_on"])) == (60, 40)
    assert all(name.endswith(".png") for name in summary["evaluated_on"])


def test_a_build_that_takes_long_reports_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_hub.models.variants.PROGRESS_S", -1.0)
    lines: list[str] = []
    build(request(tmp_path, models.digits_classifier(), variants=["cpu-int8"]), lines.append)
    assert "  fp32: evaluated on 16 of 28 inputs" in lines
    assert "  cpu-int8: calibrated on 32 of 32 inputs" in lines


def test_external_data_is_taken_into_the_bundle(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(models.digits_classifier(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    assert (tmp_path / "m.bin").stat().st_size > 1000
    wanted = BuildRequest(
        onnx=path, task="classification", labels=DIGITS, calibration=models.digits_npz(tmp_path / "d.npz", 40),
        out=tmp_path / "out", variants=["fp32"],
    )  # fmt: skip
    build(wanted)
    assert len(load(tmp_path / "out").model("fp32")) > 8000


# -- bad input ---------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"Gemm", b"Gemn"))


def custom(path: Path) -> None:
    made = models.digits_classifier()
    made.graph.node[1].domain, made.graph.node[1].op_type = "com.example", "Lit"
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    path.write_bytes(made.SerializeToString())


def already_quantized(path: Path) -> None:
    made = onnx.load(Path(__file__).parents[3] / "cloud_hub/demo/assets/digits-edge/model.onnx")
    path.write_bytes(made.SerializeToString())


def external_missing(path: Path) -> None:
    onnx.save(models.digits_classifier(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    (path.parent / "m.bin").unlink()


def two_inputs(path: Path) -> None:
    nodes = [models.node("Add", "a b", "c")]
    models.saved(models.model(nodes, {}, [("a", ("N", 2)), ("b", ("N", 2))], [("c", ("N", 2))]), path)


def free_sides(path: Path) -> None:
    nodes = [models.node("Relu", "a", "b")]
    models.saved(models.model(nodes, {}, [("a", ("N", 3, "h", "w"))], [("b", ("N", 3, "h", "w"))]), path)


def doubles(path: Path) -> None:
    nodes = [helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT)]
    models.saved(
        models.model(nodes, {}, [("a", ("N", 1, 8, 8))], [("b", ("N", 1, 8, 8))], dtype=TensorProto.DOUBLE), path
    )


def nan(path: Path) -> None:
    made = models.digits_classifier()
    bias = next(one for one in made.graph.initializer if one.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), "bias"))
    models.saved(made, path)


SPOILT_MODELS: list[tuple[Callable[[Path], object], str]] = [
    (truncated, "damaged or truncated|not a valid ONNX model"), (flipped, "not a valid ONNX model"),
    (lambda path: path.write_bytes(b""), "not a valid ONNX model"),
    (lambda path: path.write_bytes(b"\x89PNG no model"), "not an ONNX file"),
    (Path.unlink, "No such file"), (custom, r"devices do not know: com\.example\.Lit"),
    (already_quantized, "is quantized already"), (external_missing, r"data file 'm\.bin' is missing"),
    (two_inputs, r"window is uint8 \[8, 8, 1\], not float32"),
    (free_sides, "free sides: 3x.x.. .*such as --shape 3x"),
    (doubles, "is DOUBLE"), (nan, "fp32 variant of m: its answer to '.*' is no number"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), SPOILT_MODELS, ids=[said[:30] for _, said in SPOILT_MODELS])
def test_a_model_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    wanted = request(tmp_path, models.digits_classifier())
    spoil(wanted.onnx)
    with pytest.raises(BuildError, match=said):
        build(wanted)
    assert not wanted.out.exists()


def several_inputs(image: bool = False) -> onnx.ModelProto:
    """A window [N, 6, 2] and static [N, 3], or an image [N, 1, 8, 8] with its scale; Gemm of both together."""
    first = ("image", ("N", 1, 8, 8)) if image else ("window", ("N", 6, 2))
    size = 64 if image else 12
    other = ("scale", ("N", 1)) if image else ("static", ("N", 3))
    nodes = [
        models.node("Flatten", first[0], "flat"),
        models.node("Mul", f"flat {other[0]}", "all") if image else models.node("Concat", "flat static", "all", axis=1),
        models.node("Gemm", "all weights", "out"),
    ]
    weights = np.random.default_rng(2).normal(size=(size if image else size + 3, 2))
    return models.model(nodes, {"weights": weights}, [first, other], [("out", ("N", 2))])


def test_a_model_with_several_inputs_is_built_from_an_array_for_each_and_answers_its_windows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    window, static = rng.normal(size=(60, 6, 2)).astype(np.float32), rng.normal(size=(60, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", window=window, static=static)
    made = several_inputs()
    build(request(
        tmp_path, made, task="tensors", labels=[], calibration=tmp_path / "data.npz", tolerance=0.5,
        variants=["cpu-int8", "tensorrt-int8"],
    ))  # fmt: skip
    bundle = load(tmp_path / "out")
    assert [spec.layout for spec in bundle.manifest.inputs] == ["NTC", "NC"]
    assert {"cpu-int8", "fp32"} <= set(bundle.manifest.variants)
    assert all(not check.problem for check in check_bundle(bundle))
    task = plugins.load(plugins.TASKS, "tensors", "x")(bundle.manifest, "d")
    given = np.concatenate([window[0], np.tile(static[0], (6, 1))], axis=1)
    (result,) = task.postprocess(
        OnnxSession(bundle.model("fp32"), bundle.manifest).run(task.preprocess([given])), [given]
    )
    expected = np.concatenate([window[0].ravel(), static[0]]) @ onnx.numpy_helper.to_array(made.graph.initializer[0])
    assert list(result.values.values()) == pytest.approx(expected.tolist(), rel=1e-3)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"window": (60, 6, 2), "static": (60, 4)}, r"array 'static' is \[60, 4\], the input is \[n, 3\]"),
        ({"window": (60, 6, 2), "static": (59, 3)}, "60, 59 inputs"), ({"window": (60, 6, 2)}, "no array 'static'"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_the_inputs_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "data.npz", **{name: np.zeros(shape, np.float32) for name, shape in arrays.items()})
    wanted = request(tmp_path, several_inputs(), task="tensors", labels=[], calibration=tmp_path / "data.npz")
    with pytest.raises(BuildError, match=said):
        build(wanted)


def test_beside_an_image_another_input_is_a_constant(tmp_path: Path) -> None:
    made = several_inputs(image=True)
    wanted = request(tmp_path, made, labels=["a", "b"], calibration=npz(inputs=FRAMES)(tmp_path), tolerance=1.0)
    with pytest.raises(ModelError, match=r"'image' has layout 'NCHW'.*--constant"):
        build(wanted)
    with pytest.raises(BuildError, match=r"no input 'sclae'. Inputs: image, scale"):
        build(replace(wanted, constants={"sclae": [1.0]}))
    with pytest.raises(BuildError, match="'scale' has 2 numbers"):
        build(replace(wanted, constants={"scale": [1.0, 2.0]}))
    build(replace(wanted, constants={"scale": [0.5]}))
    bundle = load(wanted.out)
    assert [spec.name for spec in bundle.manifest.inputs] == ["image"]
    assert bundle.manifest.batch == 0
    ones = np.ones((1, 1, 8, 8), np.float32)
    expected = 0.5 * onnx.numpy_helper.to_array(made.graph.initializer[0]).sum(axis=0)
    (output,) = OnnxSession(bundle.model("fp32"), bundle.manifest).run({"image": ones}).values()
    assert output[0] == pytest.approx(expected, rel=1e-4)


def npz(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "data.npz", **arrays)
        return folder / "data.npz"

    return write


def broken_picture(folder: Path) -> Path:
    pictures = models.digits_folder(folder / "pictures", 40)
    next(pictures.rglob("*.png")).write_bytes(b"\x89PNG\r\n")
    return pictures


def no_picture(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def cut_npz(folder: Path) -> Path:
    path = models.digits_npz(folder / "cut.npz", 60)
    path.write_bytes(path.read_bytes()[:-200])
    return path


FRAMES = np.zeros((40, 8, 8, 1), np.uint8)
SPOILT_DATA: list[tuple[Callable[[Path], Path], str]] = [
    (lambda folder: folder / "nowhere", "neither a folder nor an npz file"),
    (no_picture, "holds no pictures"),
    (broken_picture, r"png: cannot be read as a picture .* Remove or replace this file"),
    (cut_npz, "cannot be read"),
    (lambda folder: models.digits_npz(folder / "few.npz", 12), "has only 12 inputs. Give 20 at least"),
    (npz(inputs=np.array([{}] * 40, object)), "cannot be read"),
    (npz(inputs=np.zeros((40, 8, 8), np.int64)), r"its array 'inputs' is int64 \[40, 8, 8\]"),
    (npz(inputs=np.zeros((40, 8, 2), np.float32)), r"calibration data .* window|not uint8"),
    (npz(inputs=np.zeros((40, 8, 8, 5), np.uint8)), "frame has 5 channels, the model takes 1"),
    (npz(inputs=FRAMES, labels=np.zeros(3)), "has 40 inputs and 3 labels"),
    (npz(inputs=FRAMES, labels=np.array(["x"] * 40)), "'labels' holds 'x'. Known labels: 0, 1"),
]


@pytest.mark.parametrize(("data", "said"), SPOILT_DATA, ids=[said[:30] for _, said in SPOILT_DATA])
def test_calibration_data_that_cannot_be_used_are_refused_with_the_reason(
    tmp_path: Path, data: Callable[[Path], Path], said: str
) -> None:
    wanted = request(tmp_path, models.digits_classifier(), calibration=data(tmp_path))
    with pytest.raises(BuildError, match=said):
        build(wanted)
    assert not wanted.out.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [*DIGITS, "x"]}, "10 outputs for 11 labels"), ({"task": "divination"}, "no task 'divination'"),
        ({"labels": ["a"] * 10}, "label 'a' is listed 10 times"),
        ({"options": {"activaton": "none"}}, "did you mean 'activation'"),
        ({"variants": ["int4"]}, "no variant 'int4'"),
        ({"tolerance": 2.0}, "2.0 is no share"), ({"shape": [1, 9, 9]}, "is 1x8x8, --shape is 1x9x9"),
        ({"layout": "NC"}, "layout 'NC'"), ({"layout": "NXYZ"}, "Known layouts"), ({"std": [0.0]}, "std must not be 0"),
        ({"mean": [1.0, 2.0]}, "preprocess.mean has 2 numbers for 1 channels"),
        ({"task": "detection"}, "fit no head with 10 labels"), ({"task": "segmentation"}, "output .* for 10 labels"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused_with_the_place(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    wanted = request(tmp_path, models.digits_classifier(), **changes)
    with pytest.raises(ModelError, match=said):
        build(wanted)
    assert not wanted.out.exists()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    wanted = request(tmp_path, models.digits_classifier())
    wanted.out.mkdir()
    (wanted.out / "mine").write_text("kept")
    with pytest.raises(BuildError, match="already exists"):
        build(wanted)
    assert (wanted.out / "mine").read_text() == "kept"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    words = on_small_disk(disk, "16k")
    data, labels = models.digits_npz(tmp_path / "d.npz", 40), tmp_path / "l.txt"
    labels.write_text("\n".join(DIGITS))
    model = models.saved(models.digits_classifier(), tmp_path / "m.onnx")
    hub = Path(sys.executable).parent / "tidegate-hub"
    command = [
        hub, "model", "build", "--onnx", model, "--task", "classification", "--calibration", data, "--labels", labels,
        "--out", disk / "out",
    ]  # fmt: skip
    script = '"$@"; code=$?; ls -A "$0"; exit $code'
    done = subprocess.run(
        [*words, "sh", "-c", script, str(disk), *map(str, command)], capture_output=True, text=True, check=False,
        env=dict(os.environ) | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == "", "the disk is as empty as before"


def test_no_room_for_temporary_files_is_said_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = request(tmp_path, models.digits_classifier())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(BuildError, match=r"gone: a temporary file cannot be written .* set TMPDIR"):
        build(wanted)
    assert not wanted.out.exists()


# -- check -------------------------------------------------------------------------------------------


def test_a_variant_that_answers_otherwise_fails_the_check(built: Built) -> None:
    bundle = load(built("classification")[0])
    with np.load(built("classification")[0] / "golden/outputs.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["fp16/probabilities"] = arrays["fp16/probabilities"][:, ::-1]
    del arrays["fp32/probabilities"]
    import io

    golden = io.BytesIO()
    np.savez(golden, **arrays)  # type: ignore[arg-type]
    wrong = Bundle(manifest=bundle.manifest, files=bundle.files | {"golden/outputs.npz": golden.getvalue()})
    problems = {one.variant: one.problem for one in check_bundle(wrong)}
    assert problems == {
        "cpu-int8": "", "tensorrt-int8": "", "fp16": "it answers otherwise than at the build",
        "fp32": "its golden outputs are missing",
    }  # fmt: skip


def test_a_classification_without_labels_and_subfolders_that_are_none_are_said(tmp_path: Path) -> None:
    wanted = request(tmp_path, models.digits_classifier())
    with pytest.raises(BuildError, match=r"--labels: a classification has at least two labels.* Give a text file"):
        build(replace(wanted, labels=[]))
    said: list[str] = []
    for number in range(20):
        (tmp_path / "pictures" / "monday").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "pictures" / "monday" / f"{number}.png")
    build(replace(wanted, calibration=tmp_path / "pictures", variants=["fp16"]), said.append)
    assert any("these subfolders are no labels: monday" in line for line in said)
