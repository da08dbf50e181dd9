"""What a patch of desired state does, and the patch that sets it back. Pure."""

from __future__ import annotations

from typing import Any

from shared.twin import shadow
from shared.twin.merge import leaves


def patch_details(document: str, patch: shadow.State) -> tuple[str, ...]:
    """`remove/<document>/<path>` and `set/<document>/<path>` of each leaf, removals first; `.` joins the path."""
    rows = [("remove" if value is None else "set", ".".join(path)) for path, value in leaves(patch)]
    return tuple(f"{verb}/{document}/{path}" for verb, path in sorted(rows))


def inverse(patch: shadow.State, desired: shadow.State) -> dict[str, Any]:
    """The patch that restores `desired` after `patch` was applied to it."""
    back: dict[str, Any] = {}
    for key, value in patch.items():
        old = desired.get(key)
        if isinstance(value, dict) and value and isinstance(old, dict) and old:
            back[key] = inverse(value, old)
        else:
            back[key] = old
    return back


def unchanged(patch: shadow.State, desired: shadow.State) -> bool:
    """Whether `desired` still has what the patch wrote: its values, and nothing where it removed."""
    for path, value in leaves(patch):
        there: Any = desired
        for name in path:
            there = there.get(name) if isinstance(there, dict) else None
        if not (there is None if value is None else shadow.json_equal(value, there)):
            return False
    return True
