"""Two writers of one document: what changed on one side since both agreed, and what comes of it. Pure functions.

The rules are those of Greengrass' shadow manager (Apache-2.0, SyncNodeMerger), kept leaf by leaf: changed on one
side only, take it; changed on both, the owner wins; objects recurse, arrays and scalars are one value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from shared.twin import State, same

Path = tuple[str, ...]
"""Keys from the root of a section to a value."""


class _Gone:
    def __repr__(self) -> str:
        return "GONE"


GONE: Any = _Gone()
"""In the place of a value that is not there; None would be a deletion on its way."""


def merge3(base: State, local: State, remote: State, *, owner: Literal["local", "remote"]) -> State:
    """What `local` and `remote` come to, when both were `base` once; `owner` wins what both have changed.

    A field that is missing counts as deleted. None of the three may hold null.
    """
    merged: State = {}
    for key in [*remote, *(key for key in local if key not in remote)]:
        value = _one(base.get(key, GONE), local.get(key, GONE), remote.get(key, GONE), owner)
        if value is not GONE:
            merged[key] = value
    return merged


def _one(base: Any, local: Any, remote: Any, owner: Literal["local", "remote"]) -> Any:
    if same(local, remote) or same(remote, base):
        return local
    if same(local, base):
        return remote
    mine = local if owner == "local" else remote
    # An object that one side deleted is an object all of whose leaves it deleted.
    sides = [{} if side is GONE and isinstance(base, dict) else side for side in (local, remote)]
    if not all(isinstance(side, dict) for side in sides):
        return mine
    merged = merge3(base if isinstance(base, dict) else {}, sides[0], sides[1], owner=owner)
    return merged or ({} if mine == {} else GONE)


def patch(old: State, new: State) -> State:
    """What makes `new` of `old` when it is merged over it: null for each field that is gone."""
    result: State = {key: None for key in old if key not in new}
    for key, value in new.items():
        have = old.get(key)
        if isinstance(value, dict) and isinstance(have, dict):
            if inner := patch(have, value):
                result[key] = inner
        elif key not in old or not same(value, have):
            result[key] = value
    return result


def value_at(state: State, path: Path) -> Any:
    """The value at `path`, or GONE."""
    value: Any = state
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return GONE
        value = value[key]
    return value


def with_value(state: State, path: Path, value: Any) -> State:
    """`state` with `value` at `path`, the whole of it; GONE takes the field away, and objects that it leaves empty."""
    key, *rest = path
    old = state.get(key)
    if rest:
        value = with_value(old if isinstance(old, dict) else {}, tuple(rest), value) or GONE
    if value is GONE:
        return {other: kept for other, kept in state.items() if other != key}
    return {**state, key: value}


def leaves(tree: State, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf with its path. Arrays and empty objects are leaves, as in the twin's rules."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def tree(pairs: Iterable[tuple[Path, Any]]) -> State:
    """The opposite of `leaves`."""
    result: State = {}
    for path, value in pairs:
        result = with_value(result, path, value)
    return result


def format_path(path: Path) -> str:
    """A path as people and progress messages write it: `settings.period_s`."""
    return ".".join(path)
