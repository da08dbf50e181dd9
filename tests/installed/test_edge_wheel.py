"""The wheel with the extra `edge` alone, in a venv of its own: it works, and brings nothing of the hub's libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
HUB_ONLY = {"fastapi", "sqlmodel", "sqlalchemy", "pydantic", "uvicorn", "alembic", "httpx", "numpy", "onnxruntime"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str, code: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("tidegate-*.whl")
    run(sys.executable, "-m", "venv", str(folder / "venv"))
    python = str(folder / "venv" / "bin" / "python")
    constraints = str(ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, f"tidegate[edge] @ file://{wheel}")
    return folder / "venv"


def test_no_hub_library_came_in(venv: Path) -> None:
    listed = json.loads(run(str(venv / "bin" / "python"), "-m", "pip", "list", "--format=json").splitlines()[0])
    names = {row["name"].lower().replace("_", "-") for row in listed}
    assert "tidegate" in names
    assert not names & HUB_ONLY


def test_the_agent_starts_finds_its_profile_and_ends_cleanly(venv: Path, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        f'[device]\nid = "a"\nprofile = "x86-64"\nstate_dir = "{tmp_path}/state"\n'
        '[link]\ndiscover = false\naddress = "127.0.0.1:9"\n[[collectors]]\nkind = "host"\n'
    )
    program = str(venv / "bin" / "tidegate-edge")
    assert "well" in run(program, "check", "--config", str(config))
    agent = subprocess.Popen([program, "run", "--config", str(config)], stderr=subprocess.PIPE, text=True)
    assert agent.stderr is not None
    with agent.stderr:
        for line in agent.stderr:
            if json.loads(line)["event"] == "agent.started":
                break
        agent.terminate()
        agent.stderr.read()
    assert agent.wait(20) == 0
    assert "accepted" in run(program, "status", "--config", str(config))


def test_a_changed_file_is_found_by_check(venv: Path, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        f'[device]\nid = "a"\nprofile = "x86-64"\nstate_dir = "{tmp_path}/state"\n[link]\naddress = "127.0.0.1:9"\n'
    )
    (file,) = venv.glob("lib/python*/site-packages/shared/ids.py")
    before = file.read_bytes()
    try:
        file.write_bytes(before + b"# changed\n")
        assert "is not the file that was installed" in run(
            str(venv / "bin" / "tidegate-edge"), "check", "--config", str(config), code=78
        )
    finally:
        file.write_bytes(before)


def test_the_hub_says_what_it_lacks(venv: Path) -> None:
    said = run(str(venv / "bin" / "tidegate-hub"), "check", code=78)
    assert "tidegate[hub]" in said


@pytest.mark.nightly
def test_wheels_for_jetpacks_python_exist(venv: Path, tmp_path: Path) -> None:
    """Python 3.10 on aarch64 (JetPack 6): every pinned wheel is there, though no such machine is at hand."""
    (wheel,) = venv.parent.glob("tidegate-*.whl")
    pins = tmp_path / "constraints.txt"  # pip judges markers by the Python that runs it, not by --python-version
    rows = map(Requirement, (ROOT / "constraints.txt").read_text("utf-8").splitlines()[1:])
    then = {"python_version": "3.10", "python_full_version": "3.10.12"}
    pins.write_text("".join(f"{r.name}{r.specifier}\n" for r in rows if not r.marker or r.marker.evaluate(then)))
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28, 34, 35)]
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--target", str(tmp_path / "none"),
        "--python-version", "3.10", "--implementation", "cp", "--only-binary=:all:", *platforms,
        "-c", str(pins), f"tidegate[edge,onnx] @ file://{wheel}",
    )  # fmt: skip
