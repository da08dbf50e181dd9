"""Device profiles: the parts of a kind of hardware and its default settings. Shipped as TOML in `device_profiles`."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import msgspec

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of hardware, present if one of `paths` (globs) exists; otherwise reported as missing."""

    name: str
    paths: list[str]
    gives: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """A kind of device. `settings` are defaults for the agent's configuration; the device's own file overrides them."""

    name: str
    title: str
    machine: str
    parts: list[Part] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """Names of the shipped profiles."""
    folder = resources.files("device_profiles")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name: str) -> DeviceProfile:
    """The shipped profile `name`; raises ConfigError that lists the available profiles."""
    if name not in names():
        raise ConfigError("device.profile", f"there is no profile '{name}'", f"Use one of: {', '.join(names())}")
    text = resources.files("device_profiles").joinpath(f"{name}.toml").read_text("utf-8")
    return msgspec.toml.decode(text, type=DeviceProfile)
