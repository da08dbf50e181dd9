"""An engine's claims: what they cite must exist and hold what they name; seeded bugs are caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.incidents.core import claims
from cloud_hub.incidents.core.claims import check_claims
from cloud_hub.incidents.core.evidence import AlarmFact, Claim, EvidenceItem, alarm_item

NOON_US = 1_800_000_000_000_000  # 2027-01-15 08:00:00 UTC
ALARM = alarm_item(
    "E1", "press-3",
    AlarmFact(metric="temp.cpu", kind="high", priority="high", value=97.25, limit=90.0, state="raised", t_us=NOON_US),
)  # fmt: skip
OTHER = alarm_item(
    "E2", "press-4",
    AlarmFact(metric="disk.free", kind="low", priority="low", value=0.043, limit=0.1, state="raised", t_us=NOON_US),
)  # fmt: skip
EVENT = EvidenceItem(id="E3", kind="event", device="press-3", t_us=NOON_US, summary="fan 2 stalled at 1200 rpm")
CHINESE = EvidenceItem(id="E4", kind="metric", device="mill-1", t_us=NOON_US, summary="", data={"metric": "温度.进口"})
ITEMS = [ALARM, OTHER, EVENT, CHINESE]


def cut(text: str, *cites: str) -> str:
    """Why a claim is cut, or ''."""
    _, cuts = check_claims([Claim(text=text, cites=cites)], ITEMS)
    return f"{cuts[0].reason} {cuts[0].name}".strip() if cuts else ""


@pytest.mark.parametrize(
    ("text", "cites"),
    [
        ("temp.cpu of press-3 is 97.25, above its limit of 90", ("E1",)),
        ("The temperature is about 97, 97.3 or 97.2% of something", ("E1",)),
        ("温度 97 高于 90", ("E1",)),
        ("Only 4.3% of the disk of press-4 is free", ("E2",)),
        ("Fan 2 stalled at 1,200 rpm at 08:00, see E3", ("E3",)),
        ("At 2027-01-15T08:00:00Z the read-only check failed, e.g. by dust", ("E3",)),
        ("Both 2 alarms point to the same room", ("E1", "E2")),
        ("温度.进口 没有数据", ("E4",)),
    ],
)
def test_what_the_evidence_holds_stands(text: str, cites: tuple[str, ...]) -> None:
    assert cut(text, *cites) == ""


@pytest.mark.parametrize(
    ("text", "cites", "reason"),
    [
        ("temp.cpu is high", (), "uncited"),
        ("temp.cpu is high", ("E9",), "unknown"),
        ("temp.cpu is high", ("E1", "E9"), "unknown"),
        ("temp.cpu is 98", ("E1",), "number 98"),
        ("temp.cpu is ９８", ("E1",), "number 98"),
        ("temp.cpu is 97.24", ("E1",), "number 97.24"),
        ("temp.cpu is −97", ("E1",), "number -97"),
        ("temp.cpu is 9\u200b8", ("E1",), "number 98"),
        ("disk.free is low", ("E1",), "name disk.free"),
        ("press-4 is hot", ("E1",), "name press-4"),
        ("press-33 is hot", ("E1",), "name press-33"),
        ("pump_7 is hot", ("E1",), "name pump_7"),
        ("line/age_s is high", ("E1",), "name line/age_s"),
        ("温度.进口 很高", ("E1",), "name 温度.进口"),
        ("It began at 09:30", ("E3",), "number 09:30"),
    ],
)
def test_what_it_does_not_hold_is_cut(text: str, cites: tuple[str, ...], reason: str) -> None:
    assert cut(text, *cites) == reason


Fact = tuple[str, str, int]
TRUE: Fact = ("press-3", "temp.cpu", 4711)
FALSE: list[Fact] = [
    ("press-4", "disk.free", 4712), ("mill-1", "温度.进口", 471), ("switch-12", "流量", 47_110),
    ("pump_7", "a/age_s", 12_345),
]  # fmt: skip
words = st.sampled_from(["", "the fan is", "above", "高于", "温度", "rises.", "(and"])


def item(number: int, fact: Fact) -> EvidenceItem:
    device, metric, value = fact
    data = {"metric": metric, "last": value}
    return EvidenceItem(id=f"E{number}", kind="metric", device=device, t_us=NOON_US, summary=f"{metric}", data=data)


World = tuple[list[EvidenceItem], str, bool]


def world(other: Fact, part: int, false: bool, before: str, after: str) -> World:
    """Two facts, and a claim that names a part of the first or of the other; it cites the first."""
    named = (other if false else TRUE)[part]
    return [item(1, TRUE), item(2, other)], f"{before} {named} {after}", false


worlds = st.builds(world, st.sampled_from(FALSE), st.integers(0, 2), st.booleans(), words, words)


def check_contradictions_are_cut(world: World) -> None:
    items, text, false = world
    kept, cuts = check_claims([Claim(text=text, cites=("E1",))], items)
    assert (len(kept), len(cuts)) == ((0, 1) if false else (1, 0)), (text, cuts)


def fails(check: Callable[[Any], None], strategy: st.SearchStrategy[Any]) -> bool:
    """Whether `check` fails on some example of `strategy`."""

    @settings(database=None, derandomize=True, max_examples=200)
    @given(strategy)
    def run(example: Any) -> None:
        check(example)

    try:
        run()
    except AssertionError:
        return True
    return False


@settings(max_examples=100)
@given(worlds)
def test_a_claim_stands_just_if_its_citation_holds_it(world: World) -> None:
    check_contradictions_are_cut(world)


@pytest.mark.parametrize(
    ("name", "bug"),
    [("contradiction", lambda *_: None), ("_is_held", lambda *_: True), ("_names_it", lambda *_: False)],
)
def test_seeded_bugs_let_a_contradicted_claim_pass_and_are_caught(
    monkeypatch: pytest.MonkeyPatch, name: str, bug: Callable[..., Any]
) -> None:
    monkeypatch.setattr(claims, name, bug)
    assert fails(check_contradictions_are_cut, worlds)


@given(st.text(), st.lists(st.text(max_size=4), max_size=3).map(tuple))
def test_any_text_of_an_engine_is_judged(text: str, cites: tuple[str, ...]) -> None:
    kept, cuts = check_claims([Claim(text=text, cites=cites), Claim(text=text, cites=("E1", "E4"))], ITEMS)
    assert len(kept) + len(cuts) == 2
