"""`tidegate-hub model`: build, show and check on the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from simulators import trained_models as models

from cloud_hub.__main__ import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its labels and pictures."""
    folder = tmp_path_factory.mktemp("model")
    models.saved(models.digits_classifier(), folder / "m.onnx")
    models.digits_folder(folder / "pictures", 120)
    (folder / "labels.txt").write_text("\n".join(models.DIGITS) + "\n")
    return folder


def words(files: Path, out: Path, *more: str) -> list[str]:
    return [
        "model", "build", "--onnx", str(files / "m.onnx"), "--task", "classification",
        "--calibration", str(files / "pictures"), "--labels", str(files / "labels.txt"), "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def bundle(files: Path) -> Path:
    assert main(words(files, files / "bundle", "--licence", "CC-BY-4.0", "--provenance", "data=UCI digits")) == 0
    return files / "bundle"


def test_build_reports_each_step_and_what_to_do_next(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(files, tmp_path / "out", "--option", "activation=none")) == 0
    out, err = capsys.readouterr()
    assert f"tidegate-hub model check {tmp_path / 'out'}" in out
    lines = err.splitlines()
    assert lines[0] == "reading m.onnx"
    assert any(line.startswith("  cpu-int8: accuracy ") for line in lines)
    assert lines[-1] == f"writing {tmp_path / 'out'}"


def test_build_prints_json(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(files, tmp_path / "out", "--json", "--variants", "cpu-int8,fp32")) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["variants"]) == {"cpu-int8", "fp32"}
    assert found["variants"]["cpu-int8"]["metrics"]["accuracy"] > 0.9


def test_show_verifies_and_prints(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", str(bundle)]) == 0
    shown = capsys.readouterr().out
    for text in ("m 1.0.0: classification", "float32 [1, 8, 8] NCHW", "data: UCI digits", "CC-BY-4.0", "tensorrt-int8"):
        assert text in shown
    assert main(["model", "show", "--json", str(bundle)]) == 0
    assert json.loads(capsys.readouterr().out)["licence"] == "CC-BY-4.0"
    spoilt = Path(shutil.copytree(bundle, tmp_path / "spoilt"))
    (spoilt / "fp16.onnx").write_bytes(b"other")
    assert main(["model", "show", str(spoilt)]) == 1
    assert "'fp16.onnx' is not the one that its manifest names" in capsys.readouterr().err


def test_check_runs_the_golden_inputs(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "check", str(bundle)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("cpu-int8       ok: agreement 100.0%")
    assert main(["model", "check", "--json", str(bundle)]) == 0
    assert {one["problem"] for one in json.loads(capsys.readouterr().out)} == {""}
    assets = Path(sys.modules["cloud_hub"].__path__[0]) / "demo" / "assets"
    for name in ("digits-edge", "digits-expert"):
        assert main(["model", "check", str(assets / name)]) == 0, "the bundles of the demo"


def test_what_is_wrong_is_said_with_its_exit_code(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(files, tmp_path / "a"), "--onnx", str(files / "labels.txt")]) == 1
    assert "labels.txt: is not" in capsys.readouterr().err
    assert main([*words(files, tmp_path / "a"), "--labels", str(files / "nowhere")]) == 1
    assert "Give a text file with one label a line" in capsys.readouterr().err
    assert main(["model", "show", str(tmp_path)]) == 1
    assert "holds no manifest.json. Give the folder that" in capsys.readouterr().err
    for wrong, says in (
        (["--shape", "big"], "such as 3x224x224"), (["--mean", "a,b"], "such as 0.5,0.5,0.5"),
        (["--option", "confidence"], "is not NAME=VALUE"), (["--color", "pink"], "choose from"),
        (["--constant", "scale=x"], "is not a number"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as usage:
            main(words(files, tmp_path / "a", *wrong))
        assert usage.value.code == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_missing_package_is_named_with_its_extra(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("build", "graph"):
        monkeypatch.delitem(sys.modules, f"cloud_hub.models.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(words(files, tmp_path / "a")) == 78
    assert "tidegate[hub,build]" in capsys.readouterr().err
