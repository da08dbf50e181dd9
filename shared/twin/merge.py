"""Three-way merge of a twin document that was changed on the device and on the hub. Pure functions.

The rules are those of Greengrass' shadow manager (Apache-2.0, SyncNodeMerger), for each leaf: a change on one side
is applied; when both sides changed it, the owner wins. Objects are merged recursively; arrays and scalars are one
value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from shared.twin.shadow import State, json_equal

Path = tuple[str, ...]
"""Keys from the root of a section to a value."""


class _Gone:
    def __repr__(self) -> str:
        return "GONE"


ABSENT: Any = _Gone()
"""Marks an absent value; None would mean a deletion."""


def merge3(base: State, local: State, remote: State, *, owner: Literal["local", "remote"]) -> State:
    """Merge `local` and `remote`, which both started from `base`; `owner` wins where both have changed a leaf.

    A missing field counts as deleted. None of the three may contain null.
    """
    merged: State = {}
    for key in [*remote, *(key for key in local if key not in remote)]:
        value = _merge_value(base.get(key, ABSENT), local.get(key, ABSENT), remote.get(key, ABSENT), owner)
        if value is not ABSENT:
            merged[key] = value
    return merged


def _merge_value(base: Any, local: Any, remote: Any, owner: Literal["local", "remote"]) -> Any:
    if json_equal(local, remote) or json_equal(remote, base):
        return local
    if json_equal(local, base):
        return remote
    winner = local if owner == "local" else remote
    # Deleting an object means deleting each of its leaves.
    sides = [{} if side is ABSENT and isinstance(base, dict) else side for side in (local, remote)]
    if not all(isinstance(side, dict) for side in sides):
        return winner
    merged = merge3(base if isinstance(base, dict) else {}, sides[0], sides[1], owner=owner)
    return merged or ({} if winner == {} else ABSENT)


def patch(old: State, new: State) -> State:
    """The patch that turns `old` into `new` when merged: null for each removed field."""
    result: State = {key: None for key in old if key not in new}
    for key, value in new.items():
        have = old.get(key)
        if isinstance(value, dict) and isinstance(have, dict):
            if inner := patch(have, value):
                result[key] = inner
        elif key not in old or not json_equal(value, have):
            result[key] = value
    return result


def value_at(state: State, path: Path) -> Any:
    """The value at `path`, or GONE."""
    value: Any = state
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return ABSENT
        value = value[key]
    return value


def with_value(state: State, path: Path, value: Any) -> State:
    """`state` with `value` at `path`, replacing the old value. GONE removes the field and objects that become empty."""
    key, *rest = path
    old = state.get(key)
    if rest:
        value = with_value(old if isinstance(old, dict) else {}, tuple(rest), value) or ABSENT
    if value is ABSENT:
        return {other: inner for other, inner in state.items() if other != key}
    return {**state, key: value}


def leaves(tree: State, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each leaf with its path. Arrays and empty objects are leaves, as in the rules of twin documents."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def tree(pairs: Iterable[tuple[Path, Any]]) -> State:
    """Build an object from (path, value) pairs; the opposite of `leaves`."""
    result: State = {}
    for path, value in pairs:
        result = with_value(result, path, value)
    return result


def format_path(path: Path) -> str:
    """A path as shown in messages: `settings.period_s`."""
    return ".".join(path)
