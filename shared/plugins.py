"""Loads plug-ins by entry point: collectors, runners, tasks, engines, scalers and actions.

Built-in ones are loaded alike. Only kinds named in the configuration are imported. A failing import raises ConfigError.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from shared.errors import ConfigError

ACTIONS = "tidegate.actions"
COLLECTORS = "tidegate.collectors"
RUNNERS = "tidegate.runners"
ENGINES = "tidegate.engines"
SCALERS = "tidegate.scalers"
TASKS = "tidegate.tasks"


def load(group: str, kind: str, place: str) -> Any:
    """Load entry point `kind` of `group`; `place` is where the configuration names it. Raises ConfigError."""
    found = {point.name: point for point in entry_points(group=group)}
    if kind not in found:
        known = ", ".join(sorted(found)) or "none: is tidegate installed?"
        raise ConfigError(place, f"there is no {group.rpartition('.')[2][:-1]} '{kind}'", f"Installed kinds: {known}")
    try:
        return found[kind].load()
    except Exception as error:  # a plug-in may raise anything while it is imported
        distribution = found[kind].dist
        missing = getattr(error, "name", None) or found[kind].value
        cure = f"Install '{missing}', or the extra of '{distribution.name if distribution else kind}' that brings it"
        raise ConfigError(place, f"plugin '{kind}' cannot be imported ({error})", cure) from error
