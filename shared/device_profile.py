"""Device profiles: what a kind of hardware has, and defaults for it. Shipped as TOML files in `device_profiles`.

A profile states facts about hardware and system software. Each fact has a source, and says whether it was verified.
"""

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
class Match:
    """How this machine is recognized. `compatible` are patterns for entries of the device tree, as in
    `nvidia,p3767-000[345]`; `paths` are globs, of which one must exist. An empty list is no condition.
    """

    compatible: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDefaults:
    """Defaults for models. `providers` are ONNX Runtime's names and `variants` the keys of a bundle's manifest, both
    best first. `memory_mb` is the budget of all models together, `batch` the largest batch.
    """

    providers: list[str]
    variants: list[str]
    memory_mb: int
    batch: int = 1

    def __post_init__(self) -> None:
        if not self.providers or not self.variants or self.memory_mb < 1 or self.batch < 1:
            raise ValueError("providers and variants must not be empty, memory_mb and batch at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Power modes (on a Jetson: of nvpmodel), and the one for steady inference; empty where there are none."""

    mode: str = ""
    modes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thermal:
    """Degrees Celsius at which clocks are reduced and at which the device shuts down; None where it is unknown."""

    throttle_c: float | None = None
    shutdown_c: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """System software that the profile stands for: versions of Python, glibc, CUDA, TensorRT and ONNX Runtime.

    The extras of Tidegate resolve there from the package index (checked by `make check`); `vendor` says which system
    brings the packages that do not.
    """

    name: str
    python: str
    glibc: str
    extras: list[str]
    cuda: str = ""
    tensorrt: str = ""
    onnxruntime: str = ""
    vendor: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a fact comes from. `verified` only if the document was read, or the value measured, for this profile."""

    source: str
    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """A kind of device. `settings` are defaults for the agent's configuration; the device's own file overrides them.

    `unsupported` is hardware that models cannot use yet. `sources` maps fields such as `thermal.throttle_c` to their
    source.
    """

    name: str
    title: str
    machine: str
    models: ModelDefaults
    match: Match = Match()
    parts: list[Part] = field(default_factory=list)
    unsupported: list[Part] = field(default_factory=list)
    power: Power = Power()
    thermal: Thermal = Thermal()
    platforms: list[Platform] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)


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


def describe(profile: DeviceProfile) -> list[str]:
    """Lines for a person: each fact, with its source; `?` marks one that was not verified."""
    models, power, thermal = profile.models, profile.power, profile.thermal
    rows = [
        ("models.providers", ", ".join(models.providers)), ("models.variants", ", ".join(models.variants)),
        ("models.memory_mb", f"{models.memory_mb}"), ("models.batch", f"{models.batch}"),
        ("power.mode", power.mode), ("power.modes", ", ".join(power.modes)),
        ("thermal.throttle_c", f"{thermal.throttle_c or ''}"), ("thermal.shutdown_c", f"{thermal.shutdown_c or ''}"),
        ("match", ", ".join(profile.match.compatible + profile.match.paths)),
        *((f"unsupported.{part.name}", part.gives) for part in profile.unsupported),
        *((f"platforms.{platform.name}", _software(platform)) for platform in profile.platforms),
    ]  # fmt: skip
    lines = [f"{profile.name}: {profile.title} ({profile.machine})"]
    for name, value in rows:
        if value:
            source = profile.sources.get(name, Source(source="not stated", verified=False))
            lines += [f"  {name:<22} {value}", f"  {'':<22} {' ' if source.verified else '?'} {source.source}"]
    return lines


def _software(platform: Platform) -> str:
    versions = {"Python": platform.python, "glibc": platform.glibc, "CUDA": platform.cuda,
                "TensorRT": platform.tensorrt, "ONNX Runtime": platform.onnxruntime}  # fmt: skip
    text = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return "; ".join([text, *(f"{package}: {origin}" for package, origin in platform.vendor.items())])
