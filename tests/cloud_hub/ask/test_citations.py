"""What a model claims is kept only if what it cites holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.ask.core import citations, prompt
from cloud_hub.ask.core.facts import Fact, Sentence

FACTS = [
    Fact(id="E1", tool="alarms", kind="alarm", text="alarm 'temp.board' of press-3: 81.27 against the limit 80",
         data={"device": "press-3", "value": 81.2749, "limit": 80.0, "raised_us": 1_700_000_000_000_000}),
    Fact(id="E2", tool="series", kind="series", text="cpu.load of press-4: mean 0.125",
         data={"device": "press-4", "mean": 0.125}),
]  # fmt: skip


def kept(text: str, *cites: str) -> bool:
    return bool(citations.kept([Sentence(text=text, cites=cites)], FACTS))


@pytest.mark.parametrize(
    ("text", "cites"),
    [
        ("The board of press-3 is too hot.", ["E1"]),
        ("It reads 81.3 and the limit is 80.", ["E1"]),
        ("It reads 81.2749.", ["E1"]),
        ("The load is 12.5% on press-4.", ["E2"]),
        ("Both 2 facts matter: 81.27 and 0.125 [E1, E2].", ["E1", "E2"]),
    ],
)
def test_what_the_facts_hold_is_kept(text: str, cites: list[str]) -> None:
    assert kept(text, *cites)


@pytest.mark.parametrize(
    ("text", "cites"),
    [
        ("The board is too hot.", []),
        ("The board is too hot.", ["E9"]),
        ("The board is too hot.", ["E1", "E9"]),
        ("It reads 82.", ["E1"]),
        ("It reads 81.28.", ["E1"]),
        ("It reads 812749.", ["E1"]),
        ("The load is 81.27.", ["E2"]),
        ("press-4 is too hot.", ["E1"]),
        ("The load is 14% on press-4.", ["E2"]),
    ],
)
def test_what_they_do_not_hold_is_cut(text: str, cites: list[str]) -> None:
    assert not kept(text, *cites)


@given(st.decimals(min_value=0, max_value=10_000, places=2), st.booleans())
def test_a_number_from_nowhere_never_passes(number: object, negative: bool) -> None:
    text = f"It reads {'-' if negative else ''}{number}."
    near = any(abs(abs(float(str(number))) - value) < 0.01 for value in (81.27, 81.2749, 80, 3, 1))
    if not near or negative:
        assert not kept(text, "E1")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "It is hot [E1]. It was 3.14 [E2, E3]. No source.",
            [("It is hot.", 1), ("It was 3.14.", 2), ("No source.", 0)],
        ),
        ("It is hot. [E1] Then cold. [E2]", [("It is hot.", 1), ("Then cold.", 1)]),
        ("温度过高[E1]。一切正常。", [("温度过高。", 1), ("一切正常。", 0)]),
        ("", []),
        ("[E1]", []),
    ],
)
def test_an_answer_in_words_is_split_at_its_citations(text: str, sentences: list[tuple[str, int]]) -> None:
    assert [(one.text, len(one.cites)) for one in prompt.cited_sentences(text)] == sentences
