"""Configurations laid over each other and over a document: nobody else's leaf changes, and leaving undoes all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.configurations.core import rules
from cloud_hub.configurations.core.rules import Layer, Plan, apply_layers, plan, resolve
from cloud_hub.twins.core.owners import RELEASED, update_owners
from shared.twin import shadow
from shared.twin.merge import leaves, tree

KEYS = st.sampled_from("abc")
VALUES = st.integers(0, 2) | st.booleans() | st.lists(st.integers(0, 1), max_size=2)
CONTENT: Any = st.recursive(
    st.dictionaries(KEYS, VALUES, min_size=1, max_size=3),
    lambda inner: st.dictionaries(KEYS, VALUES | inner, min_size=1, max_size=3), max_leaves=5,
)  # fmt: skip
LAYERS = st.lists(
    st.builds(
        lambda number, priority, created_us, content: Layer(
            id=f"c{number}", priority=priority, created_us=created_us, content={"": content}
        ),
        st.integers(0, 9), st.integers(0, 2), st.integers(0, 2), CONTENT,
    ),
    max_size=4, unique_by=lambda layer: layer.id,
)  # fmt: skip
HANDS: Any = st.lists(st.tuples(CONTENT, st.sampled_from(["anna", "press-3", "job:1", "hub"])), max_size=3)


def by_hand(steps: Any, desired: Any = None, owners: Any = None) -> tuple[Any, Any]:
    """(desired, owners) after these patches."""
    desired, owners = desired or {}, owners or {}
    for patch, actor in steps:
        desired = shadow.merge(desired, patch)
        owners = update_owners(owners, desired, patch, actor)
    return desired, owners


def applied(layers: list[Layer], desired: Any, owners: Any) -> tuple[Any, Any]:
    found = plan(resolve(layers, ""), desired, owners)
    return shadow.merge(desired, found.patch), found.owners


def others(desired: Any, owners: Any) -> dict[Any, Any]:
    names = dict(leaves(owners))
    free = (RELEASED, "configuration:")
    return {path: (value, names[path]) for path, value in leaves(desired) if not names[path].startswith(free)}


# -- properties, and the bugs that they find -------------------------------------------------------


@given(layers=LAYERS, data=st.data())
def test_the_order_in_which_configurations_come_does_not_matter(layers: list[Layer], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(layers))
    assert resolve(shuffled, "") == resolve(layers, "")


@given(layers=LAYERS)
def test_every_leaf_is_won_by_the_strongest_that_meets_it(layers: list[Layer]) -> None:
    wanted = resolve(layers, "")
    for number, layer in enumerate(rules.by_priority(layers)):
        for path, value in leaves(dict(layer.content[""])):
            if path in wanted and wanted[path][1] == layer.id:
                assert shadow.json_equal(wanted[path][0], value)
            else:
                stronger = {one.id for one in rules.by_priority(layers)[:number]}
                assert any(rules.paths_overlap(path, won) and wanted[won][1] in stronger for won in wanted)
    assert dict(leaves(tree((path, value) for path, (value, _) in wanted.items()))).keys() == wanted.keys()


def nothing_of_others_changes(layers: list[Layer], hands: Any) -> None:
    desired, owners = by_hand(hands)
    before = others(desired, owners)
    after = applied(layers, desired, owners)
    assert others(*after).items() >= before.items()


@given(layers=LAYERS, before=HANDS, later=HANDS, next_layers=LAYERS)
def test_nothing_that_others_own_is_ever_changed(
    layers: list[Layer], before: Any, later: Any, next_layers: list[Layer]
) -> None:
    nothing_of_others_changes(layers, before)
    state = by_hand(later, *applied(layers, *by_hand(before)))
    mine = others(*state)
    assert others(*applied(next_layers, *state)).items() >= mine.items()


@given(layers=LAYERS, hands=HANDS)
def test_a_plan_that_was_carried_out_is_empty(layers: list[Layer], hands: Any) -> None:
    desired, owners = applied(layers, *by_hand(hands))
    again = plan(resolve(layers, ""), desired, owners)
    assert (again.patch, again.owners) == ({}, owners)


@given(layers=LAYERS, hands=HANDS, data=st.data())
def test_leaving_restores_just_what_the_others_want(layers: list[Layer], hands: Any, data: st.DataObject) -> None:
    stay = [layer for layer in layers if data.draw(st.booleans())]
    start = by_hand(hands)
    assert applied(stay, *applied(layers, *start)) == applied(stay, *start)
    assert others(*applied([], *applied(layers, *start))) == others(*start)


@given(layers=LAYERS, hands=HANDS)
def test_each_wanted_leaf_is_there_or_a_conflict_tells_why_not(layers: list[Layer], hands: Any) -> None:
    start = by_hand(hands)
    wanted = resolve(layers, "")
    found = plan(wanted, *start)
    have = dict(leaves(shadow.merge(start[0], found.patch)))
    told = {(one.configuration, one.path) for one in found.conflicts}
    for path, (value, source) in wanted.items():
        there = path in have and shadow.json_equal(have[path], value)
        assert there != ((source, ".".join(path)) in told)


Bug = tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]


def _takes_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules, "is_managed", lambda owner: owner != "hub")


def _forgets_to_take_away(patch: pytest.MonkeyPatch) -> None:
    real = rules.plan

    def lazy(wanted: rules.Wanted, desired: Any, owners: Any) -> Plan:
        found = real(wanted, desired, owners)
        kept = {path: value for path, value in leaves(found.patch) if value is not None}
        after = shadow.merge(desired, tree(kept.items()))
        return Plan(
            patch=tree(kept.items()),
            owners=update_owners(owners, after, tree(kept.items()), "configuration:x"),
            conflicts=found.conflicts,
            touched=found.touched,
        )

    patch.setitem(globals(), "plan", lazy)


def _newest_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules, "by_priority", lambda layers: sorted(layers, key=lambda one: -one.created_us))


@pytest.mark.parametrize(
    ("seed", "law"),
    [
        (_takes_everything, test_nothing_that_others_own_is_ever_changed),
        pytest.param(_forgets_to_take_away, test_leaving_restores_just_what_the_others_want, marks=pytest.mark.nightly),
        pytest.param(
            _newest_first, test_the_order_in_which_configurations_come_does_not_matter, marks=pytest.mark.nightly
        ),
    ],
)
def test_a_seeded_bug_is_found(seed: Any, law: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(monkeypatch)
    with pytest.raises(AssertionError):
        law()


# -- single cases ----------------------------------------------------------------------------------


def layer(name: str, content: Any, priority: int = 0, created_us: int = 0) -> Layer:
    return Layer(id=name, priority=priority, created_us=created_us, content={"": content})


def test_a_leaf_against_an_object_is_decided_by_priority() -> None:
    low, high = layer("low", {"a": {"b": 1, "c": 2}}, 1), layer("high", {"a": 5}, 2)
    assert resolve([low, high], "") == {("a",): (5, "high")}
    low, high = layer("low", {"a": 5, "z": 1}, 1), layer("high", {"a": {"b": 1}}, 2)
    assert resolve([low, high], "") == {("a", "b"): (1, "high"), ("z",): (1, "low")}


def test_of_two_equals_the_newest_wins() -> None:
    old, new = layer("x", {"a": 1}, 3, created_us=10), layer("b", {"a": 2}, 3, created_us=20)
    assert resolve([old, new], "") == {("a",): (2, "b")}


def test_a_conflict_tells_all_a_person_needs() -> None:
    desired, owners = by_hand([({"settings": {"period_s": 9}}, "anna")])
    found = plan(resolve([layer("slow", {"settings": {"period_s": 60}})], ""), desired, owners)
    assert found.patch == {}
    (one,) = found.conflicts
    assert one.as_dict("") == {
        "document": "", "configuration": "slow", "path": "settings.period_s", "wanted": 60, "at": "settings.period_s",
        "owner": "anna", "value": 9,
    }  # fmt: skip


def test_the_same_value_in_other_hands_is_fine_and_stays_when_the_configuration_goes() -> None:
    desired, owners = by_hand([({"a": 1}, "anna")])
    found = plan(resolve([layer("x", {"a": 1})], ""), desired, owners)
    assert (found.patch, found.owners, found.conflicts) == ({}, {"a": "anna"}, ())
    assert applied([], desired, owners) == (desired, owners)


def test_removal_and_fallback_are_one_change() -> None:
    high, low = layer("high", {"a": 1, "b": {"c": 1}}, 2), layer("low", {"a": 0}, 1)
    desired, owners = applied([high, low], {}, {})
    found = plan(resolve([low], ""), desired, owners)
    assert found.patch == {"a": 0, "b": {"c": None}}
    assert found.owners == {"a": "configuration:low"}
    assert found.touched == {"low", "high"}


def test_a_released_leaf_is_taken_again_and_one_that_nobody_wants_stays() -> None:
    assert applied([layer("x", {"a": 1})], {"a": 9}, {"a": RELEASED + "anna"}) == ({"a": 1}, {"a": "configuration:x"})
    assert applied([], {"a": 9}, {"a": RELEASED + "anna"}) == ({"a": 9}, {"a": RELEASED + "anna"})


def test_what_a_hand_took_away_is_not_set_again() -> None:
    desired, owners = applied([layer("x", {"a": {"b": 1}})], {}, {})
    desired, owners = by_hand([({"a": None}, "anna")], desired, owners)
    found = plan(resolve([layer("x", {"a": {"b": 1}})], ""), desired, owners)
    assert found.patch == {}
    assert [(one.at, one.owner, one.value) for one in found.conflicts] == [("a.b", "anna", None)]


def test_another_configuration_with_the_same_value_takes_over_without_a_change() -> None:
    desired, owners = applied([layer("x", {"a": 1})], {}, {})
    found = plan(resolve([layer("y", {"a": 1})], ""), desired, owners)
    assert (found.patch, found.owners) == ({}, {"a": "configuration:y"})


def test_what_does_not_fit_is_refused_and_costs_no_weaker_one() -> None:
    big, small = layer("big", {"a": "x" * 500}, 2), layer("small", {"b": 1}, 1)
    found = apply_layers([small, big], "", shadow.Document(), {}, 0, 300)
    assert found.document.state == {"desired": {"b": 1}}
    assert found.plan.owners == {"b": "configuration:small"}
    assert found.refused == {"big": "The payload exceeds the maximum size allowed"}


def test_a_document_that_is_already_too_large_is_left_as_it_is() -> None:
    document, _ = shadow.update(shadow.Document(), b'{"state":{"desired":{"a":"' + b"x" * 500 + b'"}}}', 0)
    found = apply_layers([layer("small", {"b": 1})], "", document, {"a": "anna"}, 0, 300)
    assert found.document is document
    assert found.plan.owners == {"a": "anna"}
    assert set(found.refused) == {"small"}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"": {}}, "document '': is empty"),
        ({"": {"a": None}}, "document '': holds a null"),
        ({"": {"a": {"b": {}}}}, "'a.b' is an empty object"),
        ({"x": {"a": [None]}}, "document 'x': State contains an invalid node"),
        ({"": {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}}, "document '': JSON contains too many levels"),
        ({"": {"a": "x" * 3000}}, "document '': The payload exceeds"),
    ],
)
def test_content_that_no_twin_could_take_is_refused_at_once(content: Any, place: str) -> None:
    with pytest.raises(ValueError, match=place.replace("(", "\\(")):
        rules.check(content, 2048)


def test_good_content_passes() -> None:
    rules.check({"": {"settings": {"period_s": 2.5}}, "thresholds": {"limits": [{"metric": "a", "high": 1}]}}, 2048)
