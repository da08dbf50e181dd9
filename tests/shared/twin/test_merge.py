"""Two writers of one document: Greengrass' cases as vectors, and the laws of the merge; seeded bugs are caught."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.twin.merge import ABSENT, format_path, leaves, merge3, patch, tree, value_at, with_value
from shared.twin.shadow import State, json_equal, merge

Merge = Callable[..., State]
FIXED = settings(max_examples=500, deadline=None, derandomize=True, database=None)
KEYS = st.sampled_from(["a", "b", "c"])
LEAVES = st.integers(0, 2) | st.booleans() | st.lists(st.integers(0, 1), max_size=2)
STATES = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=5), max_size=3
)

VECTORS: dict[str, tuple[State, State, State, State, State]] = {
    # base, local, remote, local owns, remote owns
    "nothing changed": ({"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}),
    "local only": ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}, {"a": 2}),
    "remote only": ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}, {"a": 2}),
    "both, alike": ({"a": 1}, {"a": 2}, {"a": 2}, {"a": 2}, {"a": 2}),
    "both, otherwise": ({"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}, {"a": 3}),
    "different leaves": ({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}, {"a": 2, "b": 2}),
    "both new": ({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
    "local deletes": ({"a": 1}, {}, {"a": 1}, {}, {}),
    "remote deletes": ({"a": 1}, {"a": 1}, {}, {}, {}),
    "both delete": ({"a": 1}, {}, {}, {}, {}),
    "local deletes, remote changes": ({"a": 1}, {}, {"a": 2}, {}, {"a": 2}),
    "local changes, remote deletes": ({"a": 1}, {"a": 2}, {}, {"a": 2}, {}),
    "objects recurse": ({"a": {"x": 1, "y": 1}}, {"a": {"x": 2, "y": 1}}, {"a": {"x": 1, "y": 2}},
                        {"a": {"x": 2, "y": 2}}, {"a": {"x": 2, "y": 2}}),
    "arrays are whole": ({"a": [1, 2]}, {"a": [1, 2, 3]}, {"a": [0, 1, 2]}, {"a": [1, 2, 3]}, {"a": [0, 1, 2]}),
    "object against scalar": ({"a": 1}, {"a": {"x": 1}}, {"a": 2}, {"a": {"x": 1}}, {"a": 2}),
    "an object deleted here, one leaf changed there": (
        {"a": {"x": 1, "y": 1}}, {}, {"a": {"x": 2, "y": 1}}, {}, {"a": {"x": 2}}),
    "each deletes another leaf": ({"a": {"x": 1, "y": 1}}, {"a": {"x": 1}}, {"a": {"y": 1}}, {}, {}),
    "true is not 1": ({"a": 1}, {"a": True}, {"a": 1}, {"a": True}, {"a": True}),
    "1 is 1.0": ({"a": 1}, {"a": 1.0}, {"a": 2}, {"a": 2}, {"a": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    base, local, remote, local_wins, remote_wins = VECTORS[name]
    assert json_equal(merge3(base, local, remote, owner="local"), local_wins)
    assert json_equal(merge3(base, local, remote, owner="remote"), remote_wins)


def check(merge: Merge, base: State, local: State, remote: State) -> None:
    before = deepcopy((base, local, remote))
    mine, theirs = merge(base, local, remote, owner="local"), merge(base, local, remote, owner="remote")
    assert (base, local, remote) == before, "the merge changed what it was given"
    assert json_equal(mine, merge(base, remote, local, owner="remote")), "who is called local must not count"
    assert json_equal(merge(base, local, base, owner="remote"), local), "a change on one side only was lost"
    assert json_equal(merge(base, base, remote, owner="local"), remote), "a change on one side only was lost"
    assert json_equal(merge(base, local, local, owner="local"), local), "two that agree must stay as they are"
    assert json_equal(merge(local, mine, local, owner="remote"), mine), "once merged, merged for good"
    for merged, owner, other in ((mine, local, remote), (theirs, remote, local)):
        for path, value in leaves(owner):
            if value != {} and not json_equal(value, value_at(base, path)):
                assert json_equal(value_at(merged, path), value), "the owner's change was lost"
        for path, value in leaves(other):
            alone = json_equal(value_at(owner, path), value_at(base, path)) and not under_scalar(
                path, base, owner, other
            )
            if alone and not json_equal(value, value_at(base, path)) and value != {}:
                assert json_equal(value_at(merged, path), value), (
                    "the other's change, of what the owner left alone, was lost"
                )
        for path, value in leaves(base):
            if (
                value_at(owner, path) is ABSENT
                and json_equal(value_at(other, path), value)
                and not isinstance(value, dict)
            ):
                assert value_at(merged, path) is ABSENT, "what was deleted came back"


def under_scalar(path: tuple[str, ...], *states: State) -> bool:
    """Whether on some side a value that is no object stands above the path: then the whole of it is one value."""
    above = [value_at(state, path[:n]) for state in states for n in range(1, len(path) + 1)]
    return any(value is not ABSENT and not isinstance(value, dict) for value in above[:-1]) or any(
        value == {} for value in above
    )


@FIXED
@given(STATES, STATES, STATES)
def test_laws(base: State, local: State, remote: State) -> None:
    check(merge3, base, local, remote)


def newest_wins(base: State, local: State, remote: State, *, owner: str) -> State:
    return merge(remote, local) if owner == "local" else merge(local, remote)


def two_way(base: State, local: State, remote: State, *, owner: str) -> State:
    return local if owner == "local" else remote


def whole_objects(base: State, local: State, remote: State, *, owner: str) -> State:
    """Compares the first level only."""
    mine = local if owner == "local" else remote
    result = {}
    for key in {**remote, **local}:
        b, mine_, theirs = (one.get(key, ABSENT) for one in (base, local, remote))
        value = mine_ if json_equal(theirs, b) else theirs if json_equal(mine_, b) else mine.get(key, ABSENT)
        if value is not ABSENT:
            result[key] = value
    return result


def never_deletes(base: State, local: State, remote: State, *, owner: str) -> State:
    return merge(merge3(base, local, remote, owner=owner), {k: v for k, v in base.items() if k not in local})  # type: ignore[arg-type]


def wrong_owner(base: State, local: State, remote: State, *, owner: str) -> State:
    return merge3(base, local, remote, owner="remote")


def spoils(base: State, local: State, remote: State, *, owner: str) -> State:
    remote.pop("a", None)
    return merge3(base, local, remote, owner=owner)  # type: ignore[arg-type]


@pytest.mark.parametrize("bug", [newest_wins, two_way, whole_objects, never_deletes, wrong_owner, spoils])
def test_the_laws_catch(bug: Merge) -> None:
    @settings(FIXED, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(STATES, STATES, STATES)
    def run(base: State, local: State, remote: State) -> None:
        check(bug, base, local, remote)

    with pytest.raises(AssertionError):
        run()


# -- patches and paths -----------------------------------------------------------------------------------


@FIXED
@given(STATES, STATES)
def test_a_patch_makes_the_new_of_the_old(old: State, new: State) -> None:
    """But for an object that was emptied: no merge patch can say that, only that it is gone."""
    if not any(value == {} for _, value in leaves(new)):
        assert json_equal(merge(old, patch(old, new)), new)
    assert patch(new, new) == {}


@FIXED
@given(STATES)
def test_leaves_make_the_tree_again(state: State) -> None:
    assert tree(leaves(state)) == state
    for path, value in leaves(state):
        assert value_at(state, path) is value
        assert value_at(with_value(state, path, ABSENT), path) is ABSENT
        assert json_equal(with_value(state, path, value), state)


def test_paths() -> None:
    state: dict[str, Any] = {"a": {"b": 1}, "c": 2}
    assert with_value(state, ("a", "b"), ABSENT) == {"c": 2}, "an object goes with its last field"
    assert with_value(state, ("c", "d"), 3) == {"a": {"b": 1}, "c": {"d": 3}}
    assert value_at(state, ("c", "d")) is ABSENT
    assert format_path(("settings", "period_s")) == "settings.period_s"
