"""An arm64 Debian with the agent's wheels, run by qemu's user emulation. Programs need neither a container nor root.

The root is made once, in the folder of the environment variable TIDEGATE_ARM_ROOT, or in the user's cache. Making it
needs root (debootstrap), and some 400 MB and minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
SUITE, PYTHON = "bookworm", "3.11"
ONNXRUNTIME = "1.27.0"
"""The last release that runs under qemu 7.2; later ones crash there."""
PROGRAMS = {"qemu-aarch64-static": "qemu-user-static", "debootstrap": "debootstrap", "dpkg-deb": "dpkg"}
BOOT = """import os, runpy, sys
sys.executable = os.environ["TIDEGATE_PYTHON"]  # what the agent starts its processes with
sys.argv = ["tidegate-edge", *sys.argv[1:]]
runpy.run_module("edge_agent", run_name="__main__")
"""


def folder() -> Path:
    """Where the root is kept."""
    chosen = os.environ.get("TIDEGATE_ARM_ROOT", "")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else cache / "tidegate" / "arm64"


def arm64_root() -> Path:
    """The folder with `root` and `wheels`, made if needed; skips the test where that is not possible."""
    if missing := [package for program, package in PROGRAMS.items() if shutil.which(program) is None]:
        pytest.skip(f"ARM is not tried: apt-get install {' '.join(missing)}")
    place = folder()
    if not (place / "complete").exists():
        if os.geteuid() != 0:
            pytest.skip(
                f"not allowed here: debootstrap needs root. Make {place} as root once, or set TIDEGATE_ARM_ROOT"
            )
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _make_root(place / "root")
        _fetch_wheels(place / "wheels")
        (place / "complete").touch()
    return place


def _make_root(root: Path) -> None:
    """Unpack the packages without running anything of them."""
    include = "python3,libstdc++6,libgomp1"
    options = ["--foreign", "--arch=arm64", "--variant=minbase", f"--include={include}"]
    subprocess.run(["debootstrap", *options, SUITE, str(root)], check=True, stdout=subprocess.DEVNULL)
    for archive in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(root)], check=True)
        archive.unlink()


def _fetch_wheels(target: Path) -> None:
    """The agent's dependencies for aarch64, at the versions that are pinned."""
    wanted = {"onnxruntime", "numpy", "msgspec", "paho-mqtt", "psutil", "zeroconf", "cryptography", "av"}
    rows = map(Requirement, (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()[1:])
    then = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    pins = [f"{r.name}{r.specifier}" for r in rows if r.name in wanted and (not r.marker or r.marker.evaluate(then))]
    pins = [pin for pin in pins if not pin.startswith("onnxruntime==")] + [f"onnxruntime=={ONNXRUNTIME}"]
    tags = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 37)] + ["--platform=manylinux2014_aarch64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--implementation", "cp"]
    wheels = target.with_name("downloads")
    subprocess.run([*command, "--python-version", PYTHON, *tags, "-d", str(wheels), *pins], check=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    shutil.rmtree(wheels)


class Arm64:
    """Runs Python and the agent of this checkout as on an arm64 machine; `work` is a folder of the test."""

    def __init__(self, place: Path, work: Path) -> None:
        self._root = place / "root"
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(work), str(REPOSITORY)]
        subprocess.run(command, check=True)
        (wheel,) = work.glob("tidegate-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work / "app")
        self._python, self._boot = work / "python", work / "boot.py"
        self._boot.write_text(BOOT, "utf-8")
        binary = self._root / "usr/bin" / f"python{PYTHON}"
        self._python.write_text(
            f'#!/bin/sh\nexec qemu-aarch64-static -cpu max -L {self._root} {binary} "$@"\n', "utf-8"
        )
        self._python.chmod(0o755)
        self.environment = os.environ | {
            "OPENBLAS_NUM_THREADS": "1", "TIDEGATE_PYTHON": str(self._python),
            "PYTHONPATH": f"{place / 'wheels'}:{work / 'app'}",
        }  # fmt: skip

    def command(self, *arguments: str) -> list[str]:
        """`tidegate-edge` with these arguments."""
        return [str(self._python), str(self._boot), *arguments]

    def run(self, *arguments: str) -> str:
        """Run `tidegate-edge`; returns what it prints."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, check=False, timeout=900
        )
        return done.stdout + done.stderr
