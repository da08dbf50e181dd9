"""Tracks who owns each leaf of desired state, like the field managers of Kubernetes' server-side apply.

The tree of owners has the shape of desired state, with an owner at each leaf: a token's name, a device's id, `hub` or
`learning:<name>` for the hub itself, `job:<id>`, `action:<id>` or
`configuration:<id>`. `released:<name>` marks a leaf given back to
the configurations. `removed:<name>` marks a leaf that a configuration had set and somebody removed.
"""

from __future__ import annotations

from typing import Any

from shared.twin.shadow import State

ACTION = "action:"
CONFIGURATION = "configuration:"
JOB = "job:"
LEARNING = "learning:"
RELEASED = "released:"
REMOVED = "removed:"
PERSON = "oidc:"
"""Prefix of everybody who signed in by OIDC, so that no issuer can produce one of the hub's own names."""
RESERVED = (ACTION, CONFIGURATION, JOB, LEARNING, RELEASED, REMOVED, PERSON)
"""Prefixes that no token's name may have. Device ids contain no colon."""


def update_owners(owners: State, desired: State, patch: State, actor: str) -> State:
    """The owners of `desired` after `patch` by `actor`, who now owns the touched leaves."""
    result: State = {}
    for key, value in desired.items():
        old = owners.get(key)
        if key not in patch:
            result[key] = old if old is not None else _all(value, "")  # set before owners were recorded
        elif isinstance(value, dict) and isinstance(patch[key], dict) and value:
            result[key] = update_owners(old if isinstance(old, dict) else {}, value, patch[key], actor)
        else:
            result[key] = _all(value, actor)
    for key in owners.keys() - desired.keys():
        left = _removed(owners[key], actor)
        if left:
            result[key] = left
    return result


def _removed(owner: Any, actor: str) -> Any:
    """The owner marks left of removed leaves: who removed a configuration's leaf. None if there are none."""
    if isinstance(owner, dict):
        return {key: left for key, inner in owner.items() if (left := _removed(inner, actor))}
    if owner.startswith(CONFIGURATION) and not actor.startswith(CONFIGURATION):
        return REMOVED + actor
    return owner if owner.startswith(REMOVED) else None


def _all(value: Any, actor: str) -> Any:
    return {key: _all(inner, actor) for key, inner in value.items()} if isinstance(value, dict) and value else actor
