"""Who set which leaf of desired state. A core: the tree of owners has desired's shape, with a name at each leaf.

An owner is a token's name, a device's id, `hub` or `learning:<name>` for what the hub pushed by itself, `job:<id>` or
`configuration:<id>`; `released:<name>` was given back to the hub's own rules. Beside desired's own leaves stands
`removed:<name>` where somebody took away what a configuration had set: a removal is a change like any other.
Kubernetes' server-side apply keeps field managers for the same reason: nobody's change is undone unseen.
"""

from __future__ import annotations

from typing import Any

from shared.twin import State

CONFIGURATION = "configuration:"
JOB = "job:"
LEARNING = "learning:"
RELEASED = "released:"
REMOVED = "removed:"
PERSON = "oidc:"
"""Begins the name of whoever signed in by OIDC, so that no issuer can make one of the hub's own names."""
RESERVED = (CONFIGURATION, JOB, LEARNING, RELEASED, REMOVED, PERSON)
"""No token's name begins so. Device ids hold no colon."""


def update_owners(owners: State, desired: State, patch: State, actor: str) -> State:
    """The owners of `desired` after `patch` by `who`: touched leaves are now `who`'s, the others keep theirs."""
    result: State = {}
    for key, value in desired.items():
        old = owners.get(key)
        if key not in patch:
            result[key] = old if old is not None else _all(value, "")  # set before owners were kept
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
    """What is kept of the owners of what is gone: who took away a configuration's leaf. None when nothing is."""
    if isinstance(owner, dict):
        return {key: left for key, inner in owner.items() if (left := _removed(inner, actor))}
    if owner.startswith(CONFIGURATION) and not actor.startswith(CONFIGURATION):
        return REMOVED + actor
    return owner if owner.startswith(REMOVED) else None


def _all(value: Any, actor: str) -> Any:
    return {key: _all(inner, actor) for key, inner in value.items()} if isinstance(value, dict) and value else actor
