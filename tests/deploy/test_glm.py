"""What stands in deploy/glm: units that systemd accepts, manifests whose sizes and flags agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

GLM = Path(__file__).resolve().parents[2] / "deploy" / "glm"
UNITS = sorted((GLM / "systemd").glob("*.service"))
ENVIRONMENTS = sorted((GLM / "systemd").glob("*.env"))
MANIFESTS = sorted((GLM / "kubernetes").glob("*.yaml"))
PARALLEL = {"vllm": "--tensor-parallel-size", "sglang": "--tp-size"}
WITH_TOOLS = ("glm-4.5-air", "glm-vision")


def flags(words: list[str]) -> dict[str, str]:
    """Each flag and the word after it."""
    return {word: words[n + 1] if n + 1 < len(words) else "" for n, word in enumerate(words) if word.startswith("--")}


def manifest(file: Path) -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(file.read_text("utf-8"))}


def test_every_model_is_there_for_both_engines() -> None:
    names = {f"{model}-{engine}" for model in ("glm-4.5-air", "glm-9b", "glm-vision") for engine in PARALLEL}
    assert {file.stem for file in MANIFESTS} == names
    assert {file.stem.replace(".vllm", "-vllm").replace(".sglang", "-sglang") for file in ENVIRONMENTS} == names


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_a_deployment_asks_for_as_many_gpus_as_it_uses(file: Path) -> None:
    model, _, engine = file.stem.rpartition("-")
    parts = manifest(file)
    assert set(parts) == {"PersistentVolumeClaim", "Deployment", "Service"}
    pod = parts["Deployment"]["spec"]["template"]
    assert parts["Service"]["spec"]["selector"] == pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    said = flags(container["command"])
    assert said[PARALLEL[engine]] == container["resources"]["limits"]["nvidia.com/gpu"]
    assert ("--tool-call-parser" in said) == (model in WITH_TOOLS)
    if model in WITH_TOOLS:
        assert (said["--tool-call-parser"], said["--reasoning-parser"]) == ("glm45", "glm45")
        assert engine != "vllm" or "--enable-auto-tool-choice" in said
    assert "secretKeyRef" in str(container["env"]), "no key stands in the manifest"
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 1800


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.name)
def test_a_unit_starts_the_model_with_the_flags_of_the_manifest(file: Path) -> None:
    model, engine = file.name.split(".")[0] if "4.5" not in file.name else "glm-4.5-air", file.name.split(".")[-2]
    values = dict(re.findall(r"^([A-Z]+)=(.*)$", file.read_text("utf-8"), re.MULTILINE))
    (container,) = manifest(GLM / "kubernetes" / f"{model}-{engine}.yaml")["Deployment"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert values["MODEL"] in container["command"]
    assert flags(values["ARGS"].split()).items() <= flags(container["command"]).items()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_hold(unit: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: the unit is not verified")
    copy = tmp_path / unit.name.replace("@", "@glm-9b")
    copy.write_text(re.sub(r"/opt/\w+/bin/\w+", "/bin/true", unit.read_text("utf-8")), "utf-8")
    verified = subprocess.run([program, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
