"""The targets in force: those of the file that the settings name. A file with a fault is never in force.

The file is read again when it changes. If the new one has a fault, the old targets stay, and the fault is shown.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.autoscale import Scaler
from cloud_hub.autoscale.core import targets
from cloud_hub.autoscale.core.targets import CURE, Platform, TargetEntry
from cloud_hub.autoscale.core.turn import digest
from shared import plugins
from shared.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A target in force, with its open platform."""

    entry: TargetEntry
    scaler: Scaler
    digest: str

    @property
    def name(self) -> str:
        """The target's name."""
        return self.entry.name


def read_file(path: str) -> tuple[TargetEntry, ...]:
    """Read a targets file; raises ConfigError."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"autoscale.targets_file: {path}", f"cannot be read ({error})", CURE) from error
    return targets.read(text, path)


def open_platform(place: str, platform: Platform) -> Scaler:
    """Open the platform of a target; raises ConfigError."""
    opener = plugins.load(plugins.SCALERS, platform.kind, f"{place}: platform.kind")
    try:
        scaler: Scaler = opener(dict(platform.options))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.place}", error.reason, error.cure) from error
    except Exception as error:  # a plug-in may fail in any way; the targets in force go on
        cure = f"Correct its options, or the plug-in '{platform.kind}'"
        raise ConfigError(f"{place}: platform", f"cannot be opened ({type(error).__name__}: {error})", cure) from error
    return scaler


def open_target(path: str, entry: TargetEntry) -> Target:
    """A target with its platform; raises ConfigError."""
    scaler = open_platform(f"{path}: target '{entry.name}'", entry.platform)
    return Target(entry, scaler, digest(entry.policy))


class TargetsInForce:
    """The targets of one file. The constructor raises ConfigError; later faults are in `error`."""

    def __init__(self, path: str) -> None:
        self.path, self.error = path, ""
        self._seen = self._stamp()
        self.targets: dict[str, Target] = {}
        if path:
            self._use(read_file(path))

    def reload(self) -> bool:
        """Read the file again if it changed; whether other targets are in force now."""
        stamp = self._stamp()
        if not self.path or stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self._use(read_file(self.path))
        except ConfigError as error:
            self.error = str(error)
            log.error("autoscale.targets_file_invalid", extra={"fields": {"error": self.error}})
            return False
        log.info("autoscale.targets_file_read", extra={"fields": {"targets": len(self.targets)}})
        return True

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = Path(self.path).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _use(self, entries: tuple[TargetEntry, ...]) -> None:
        found = {}
        for entry in entries:
            old = self.targets.get(entry.name)
            if old is not None and old.entry.platform == entry.platform:  # it knows which calls it has made
                found[entry.name] = Target(entry, old.scaler, digest(entry.policy))
            else:
                found[entry.name] = open_target(self.path, entry)
        self.targets, self.error = found, ""
