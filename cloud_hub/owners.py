"""Who set which leaf of desired state. A core: the tree of owners has desired's shape, with a name at each leaf.

An owner is a token's name, a device's id, `hub` for what the hub learned, `job:<id>` or `configuration:<id>`.
Kubernetes' server-side apply keeps field managers for the same reason: nobody's change is undone unseen.
"""

from __future__ import annotations

from typing import Any

from shared.merge import Path, leaves, written
from shared.twin import State

__all__ = ["CONFIGURATION", "JOB", "Path", "leaves", "owned", "written"]

CONFIGURATION = "configuration:"
JOB = "job:"


def owned(owners: State, desired: State, patch: State, who: str) -> State:
    """The owners of `desired` after `patch` by `who`: touched leaves are now `who`'s, the others keep theirs."""
    result: State = {}
    for key, value in desired.items():
        old = owners.get(key)
        if key not in patch:
            result[key] = old if old is not None else _all(value, "")  # set before owners were kept
        elif isinstance(value, dict) and isinstance(patch[key], dict) and value:
            result[key] = owned(old if isinstance(old, dict) else {}, value, patch[key], who)
        else:
            result[key] = _all(value, who)
    return result


def _all(value: Any, who: str) -> Any:
    return {key: _all(inner, who) for key, inner in value.items()} if isinstance(value, dict) and value else who
