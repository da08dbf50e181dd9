"""Looks up the four doors by entry point. Built-ins enter like strangers.

Only kinds that the configuration names are imported; a failing import stops the start with a cure.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from shared.errors import ConfigError

COLLECTORS = "tidegate.collectors"
RUNNERS = "tidegate.runners"
ENGINES = "tidegate.engines"
SCALERS = "tidegate.scalers"


def load(group: str, kind: str, place: str) -> Any:
    """The object behind entry point `kind` of `group`; `place` is where the configuration named it."""
    found = {point.name: point for point in entry_points(group=group)}
    if kind not in found:
        known = ", ".join(sorted(found)) or "none: is tidegate installed?"
        raise ConfigError(place, f"there is no {group.rpartition('.')[2][:-1]} '{kind}'", f"Installed kinds: {known}")
    try:
        return found[kind].load()
    except Exception as error:  # whatever a stranger's module does while it is imported
        home = found[kind].dist
        missing = getattr(error, "name", None) or found[kind].value
        cure = f"Install '{missing}', or the extra of '{home.name if home else kind}' that brings it"
        raise ConfigError(place, f"plugin '{kind}' cannot be imported ({error})", cure) from error
