"""The alias below `$aws`: the shadow's requests and nothing else, and what is said on both prefixes."""

from __future__ import annotations

import pytest

from shared.protocol import topics


def test_below_aws_the_hub_asks_for_shadow_requests_only() -> None:
    assert topics.hub_filters(topics.AWS) == [
        f"$aws/things/+/shadow/{rest}"
        for rest in ("delete", "get", "name/+/delete", "name/+/get", "name/+/update", "update")
    ]
    assert set(topics.hub_filters()) > {topics.thing("+", "birth"), topics.thing("+", "shadow/update")}


def test_of_births_alone_only_the_newest_counts() -> None:
    assert topics.newest_filters() == [topics.thing("+", "birth")]


@pytest.mark.parametrize("name", ["", "gates"])
@pytest.mark.parametrize("verb", ["update/delta", "update/documents"])
def test_everybodys_changes_belong_on_both_prefixes(name: str, verb: str) -> None:
    here, there = topics.shadow("press-3", name, verb), topics.shadow("press-3", name, verb, topics.AWS)
    assert (topics.twin_topic(here), topics.twin_topic(there)) == (there, here)


@pytest.mark.parametrize(
    "rest",
    ["shadow/get/accepted", "shadow/update/accepted", "shadow/update/rejected", "shadow/delete/accepted", "acks"],
)
def test_answers_belong_to_who_asked(rest: str) -> None:
    assert topics.twin_topic(topics.thing("press-3", rest)) is None
    assert topics.twin_topic(topics.thing("press-3", rest, topics.AWS)) is None


@pytest.mark.parametrize(
    ("thing", "device"), [("Press-3", "aws--_press-3"), ("a:b_C", "aws--a_0b___c"), ("-a", "aws---a")]
)
@pytest.mark.parametrize("rest", ["shadow/update/delta", "shadow/name/$live:1/update/documents"])
def test_a_thing_that_is_no_device_id_has_one_that_leads_back(thing: str, device: str, rest: str) -> None:
    theirs, ours = f"$aws/things/{thing}/{rest}", f"tidegate/v1/things/{device}/{rest}"
    assert topics.split(theirs, topics.AWS) == (device, rest)
    assert topics.thing(device, rest, topics.AWS) == theirs
    assert (topics.twin_topic(ours), topics.twin_topic(theirs)) == (theirs, ours)


@pytest.mark.parametrize("thing", ["Press 3", "x" * 61, "X" * 28, "", "+", "a.b"])
def test_an_id_that_breaks_the_rule_is_no_topic_of_ours(thing: str) -> None:
    assert topics.split(f"$aws/things/{thing}/shadow/get", topics.AWS) is None
