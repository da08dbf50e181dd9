"""What a model claims is kept only if what it cites holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.ask.core import citations, prompt
from cloud_hub.ask.core.facts import Fact, Sentence

DEVICES = frozenset({"press-3", "press-4"})
FACTS = [
    Fact(id="F1", tool="alarms", kind="alarm", text="alarm 'temp.board' of press-3: 81.27 against the limit 80",
         data={"device": "press-3", "value": 81.2749, "limit": 80.0, "raised_us": 1_700_000_000_000_000}),
    Fact(id="F2", tool="series", kind="series", text="cpu.load of press-4: mean 0.125", data={"mean": 0.125}),
]  # fmt: skip


def kept(text: str, *cites: str) -> bool:
    return bool(citations.kept([Sentence(text=text, cites=cites)], FACTS, DEVICES))


@pytest.mark.parametrize(
    ("text", "cites"),
    [
        ("The board of press-3 is too hot.", ["F1"]),
        ("It reads 81.3 and the limit is 80.", ["F1"]),
        ("It reads 81.2749.", ["F1"]),
        ("The load is 12.5% on press-4.", ["F2"]),
        ("Both 2 facts matter: 81.27 and 0.125 [F1, F2].", ["F1", "F2"]),
    ],
)
def test_what_the_facts_hold_is_kept(text: str, cites: list[str]) -> None:
    assert kept(text, *cites)


@pytest.mark.parametrize(
    ("text", "cites"),
    [
        ("The board is too hot.", []),
        ("The board is too hot.", ["F9"]),
        ("The board is too hot.", ["F1", "F9"]),
        ("It reads 82.", ["F1"]),
        ("It reads 81.28.", ["F1"]),
        ("It reads 812749.", ["F1"]),
        ("The load is 81.27.", ["F2"]),
        ("press-4 is too hot.", ["F1"]),
        ("The load is 14% on press-4.", ["F2"]),
    ],
)
def test_what_they_do_not_hold_is_cut(text: str, cites: list[str]) -> None:
    assert not kept(text, *cites)


@given(st.decimals(min_value=0, max_value=10_000, places=2), st.booleans())
def test_a_number_from_nowhere_never_passes(number: object, negative: bool) -> None:
    text = f"It reads {'-' if negative else ''}{number}."
    near = any(abs(abs(float(str(number))) - value) < 0.01 for value in (81.27, 81.2749, 80, 3, 1))
    if not near or negative:
        assert not kept(text, "F1")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "It is hot [F1]. It was 3.14 [F2, F3]. No source.",
            [("It is hot.", 1), ("It was 3.14.", 2), ("No source.", 0)],
        ),
        ("It is hot. [F1] Then cold. [F2]", [("It is hot.", 1), ("Then cold.", 1)]),
        ("温度过高[F1]。一切正常。", [("温度过高。", 1), ("一切正常。", 0)]),
        ("", []),
        ("[F1]", []),
    ],
)
def test_an_answer_in_words_is_split_at_its_citations(text: str, sentences: list[tuple[str, int]]) -> None:
    assert [(one.text, len(one.cites)) for one in prompt.cited_sentences(text)] == sentences
