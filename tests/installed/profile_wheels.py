"""Part of `make check`: the wheels of each device profile's extras resolve for its platform.

For each platform of each profile pip resolves the extras, with this repository's pins, from wheels alone. Nothing is
installed. Without a package index the check is skipped, with a message. The argument is a file that is touched when
all resolve, so that make need not ask again before a profile or a pin changes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tomllib
from packaging.requirements import Requirement

from shared import device_profile

ROOT = Path(__file__).parents[2]
OLDEST = (2, 17)
UNREACHABLE = ("Connection", "Temporary failure", "Max retries", "timed out", "Network is unreachable")

Target = tuple[str, str, str, tuple[str, ...]]
"""(Python, machine, glibc, extras)."""


def targets() -> dict[Target, list[str]]:
    """Each platform once, and the profiles that stand for it."""
    found: dict[Target, list[str]] = defaultdict(list)
    for name in device_profile.names():
        chosen = device_profile.load(name)
        for platform in chosen.platforms:
            key = (platform.python, chosen.machine, platform.glibc, tuple(platform.extras))
            found[key].append(f"{name} ({platform.name})")
    return found


def tags(machine: str, glibc: str) -> list[str]:
    """Platform tags that a pip on this system accepts."""
    major, minor = map(int, glibc.split("."))
    assert major == OLDEST[0]
    return [f"manylinux2014_{machine}", *(f"manylinux_2_{n}_{machine}" for n in range(OLDEST[1], minor + 1))]


def _applies(requirement: Requirement, target: Target) -> bool:
    python, machine, _, _ = target
    environment = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def requirements(target: Target) -> tuple[list[str], list[str]]:
    """(requirements of the extras, pins), both as they hold on the target: pip judges markers by its own Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in target[3] for line in project["optional-dependencies"][extra]]
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()[1:]

    def chosen(rows: list[str]) -> list[str]:
        return [f"{one.name}{one.specifier}" for one in map(Requirement, rows) if _applies(one, target)]

    return chosen(lines), chosen(pins)


def resolve(target: Target) -> str:
    """'' if all wheels resolve, else what pip says."""
    wanted, pins = requirements(target)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "pins.txt"
        constraints.write_text("\n".join(pins), "utf-8")
        done = subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-cache-dir",
                "--disable-pip-version-check", "--target", str(Path(folder) / "none"), "--implementation", "cp",
                "--python-version", target[0], "--only-binary=:all:", "-c", str(constraints),
                *(f"--platform={tag}" for tag in tags(target[1], target[2])), *wanted,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    return "" if done.returncode == 0 else done.stderr.strip()[-600:] or f"pip ended with {done.returncode}"


def main(stamp: str) -> int:
    """Check all; returns the exit code."""
    found = targets()
    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(found, pool.map(resolve, found), strict=True))
    failed = skipped = 0
    for target, answer in answers.items():
        place = f"Python {target[0]} {target[1]} glibc {target[2]} [{','.join(target[3])}]: {', '.join(found[target])}"
        if any(word in answer for word in UNREACHABLE):
            skipped += 1
            print(f"skipped: the package index is not reachable ({place})")
        else:
            failed += bool(answer)
            print(f"{'FAILED' if answer else 'wheels resolve'}: {place}{': ' * bool(answer)}{answer}")
    if not failed and not skipped:
        Path(stamp).touch()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
