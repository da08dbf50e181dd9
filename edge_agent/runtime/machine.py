"""Finds out what machine this is: the device profile that fits, and hardware of a profile that is missing or unused."""

from __future__ import annotations

import fnmatch
import platform
from pathlib import Path

from shared import device_profile as profiles
from shared.device_profile import DeviceProfile, Part


def compatible(root: Path = Path("/")) -> list[str]:
    """Entries of the device tree's root, most specific first; empty on machines without one."""
    try:
        content = (root / "proc/device-tree/compatible").read_bytes()
    except OSError:
        return []
    return [entry.decode("ascii", "replace") for entry in content.split(b"\0") if entry]


def exists(part: Part, root: Path = Path("/")) -> bool:
    """Whether one of the part's paths exists."""
    return any(_matches(pattern, root) for pattern in part.paths)


def _matches(pattern: str, root: Path) -> bool:
    return next(root.glob(pattern.lstrip("/")), None) is not None


def missing(profile: DeviceProfile) -> dict[str, str]:
    """Parts of the profile that this machine lacks, and what each would provide."""
    lacking = {part.name: part.gives for part in profile.parts if not exists(part)}
    if platform.machine() != profile.machine:
        lacking["machine"] = f"{profile.machine}; this is {platform.machine()}"
    return lacking


def unsupported(profile: DeviceProfile, root: Path = Path("/")) -> dict[str, str]:
    """Hardware of this machine that models cannot use yet, and what it would provide."""
    return {part.name: part.gives for part in profile.unsupported if exists(part, root)}


def detect(root: Path = Path("/"), machine: str | None = None) -> tuple[DeviceProfile | None, str]:
    """The profile that fits this machine best, and why; None if not even a generic one fits."""
    machine, entries = machine or platform.machine(), compatible(root)
    candidates = [found for name in profiles.names() if (found := profiles.load(name)).machine == machine]
    for chosen in candidates:
        for pattern in chosen.match.compatible:
            if entry := next(iter(fnmatch.filter(entries, pattern)), ""):
                return chosen, f"device tree: {entry}"
    for chosen in candidates:
        for pattern in chosen.match.paths:
            if _matches(pattern, root):
                return chosen, f"{pattern} is there"
    generic = [found for found in candidates if not found.match.compatible and not found.match.paths]
    return (generic[0], f"machine: {machine}") if generic else (None, f"no profile is for {machine}")
