"""Owners of desired leaves: who touched a leaf last has it; taking away a configuration's leaf is remembered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.twins.core.owners import REMOVED, update_owners
from shared.twin import shadow
from shared.twin.merge import leaves, tree

NAMES = st.sampled_from("abc")
VALUES = st.integers(0, 3) | st.just([1])
STATES: Any = st.recursive(
    st.dictionaries(NAMES, VALUES, max_size=3), lambda inner: st.dictionaries(NAMES, VALUES | inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
PATCHES: Any = st.recursive(
    st.dictionaries(NAMES, VALUES | st.none(), max_size=3),
    lambda inner: st.dictionaries(NAMES, VALUES | st.none() | inner, max_size=3), max_leaves=6,
)  # fmt: skip
WHO = st.sampled_from(["anna", "press-3", "job:1", "configuration:a", "configuration:b"])


@given(steps=st.lists(st.tuples(PATCHES, WHO), max_size=8))
def test_owners_have_the_shape_of_desired_and_beside_it_only_what_was_taken_from_configurations(
    steps: list[tuple[Any, str]],
) -> None:
    desired: Any = {}
    owners: Any = {}
    for patch, actor in steps:
        before = dict(leaves(owners))
        desired = shadow.merge(desired, patch)
        owners = update_owners(owners, desired, patch, actor)
        names = dict(leaves(owners))
        live = {path for path, _ in leaves(desired)}
        assert live <= names.keys()
        assert not any(names[path].startswith(REMOVED) for path in live)
        for path in names.keys() - live:
            assert names[path].startswith(REMOVED)
            assert before[path] == names[path] or before[path].startswith("configuration:")
        touched = {path for path, value in leaves(patch) if value is not None}
        assert all(names[path] == actor for path in touched & live)


@pytest.mark.parametrize(
    ("desired", "patch", "actor", "expected"),
    [
        ({"a": 1}, {"a": None}, "anna", {"a": "removed:anna"}),
        ({"a": {"b": 1}}, {"a": None}, "press-3", {"a": {"b": "removed:press-3"}}),
        ({"a": 1}, {"a": None}, "configuration:y", {}),
        ({"a": {"b": 1}}, {"a": 2}, "anna", {"a": "anna"}),
        ({"a": 1}, {"a": {"b": 2}}, "anna", {"a": {"b": "anna"}}),
    ],
)
def test_a_configurations_leaf_in_other_hands(desired: Any, patch: Any, actor: str, expected: Any) -> None:
    owners = update_owners({}, desired, desired, "configuration:x")
    assert update_owners(owners, shadow.merge(desired, patch), patch, actor) == expected


def test_a_removal_is_remembered_until_somebody_sets_the_leaf_again() -> None:
    owners = update_owners({"a": "configuration:x"}, {}, {"a": None}, "anna")
    assert update_owners(owners, {}, {"a": None}, "bob") == {"a": "removed:anna"}
    assert update_owners(owners, {"a": 5}, {"a": 5}, "bob") == {"a": "bob"}
    assert update_owners({"a": "bob"}, {}, {"a": None}, "anna") == {}


def test_dropping_the_whole_section_is_a_removal_of_every_leaf() -> None:
    assert update_owners({"a": {"b": "configuration:x"}, "c": "anna"}, {}, {}, "bob") == {"a": {"b": "removed:bob"}}


@given(state=STATES)
def test_a_tree_is_made_of_its_leaves(state: Any) -> None:
    assert tree(leaves(state)) == state
