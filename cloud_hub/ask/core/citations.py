"""Checks what a language model claims against the facts that it cites. Pure.

A sentence is kept only if it cites facts that exist, and if every number and every id in it stands in one of them. That
does not prove a sentence true; it makes inventing values and devices visible, and cuts them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cloud_hub.ask.core.facts import Fact, Sentence

_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:[.,]\d+)*(?:\.\d+)?(?:e[+-]?\d+)?%?", re.IGNORECASE)
_CITATION = re.compile(r"\[(?:F\d+(?:,\s*)?)+\]")
_ID = re.compile(r"\b[a-z0-9]+(?:[-_][a-z0-9]+)+\b")
MAX_SENTENCES = 20


def kept(sentences: Sequence[Sentence], facts: Sequence[Fact], devices: frozenset[str]) -> tuple[Sentence, ...]:
    """The sentences that their citations support. `devices` are ids that exist: a sentence may name only those that
    its facts name."""
    known = {fact.id: fact for fact in facts}
    return tuple(
        sentence for sentence in sentences[:MAX_SENTENCES]
        if sentence.cites and all(cited in known for cited in sentence.cites)
        and not contradiction(sentence, [known[cited] for cited in sentence.cites], devices)
    )  # fmt: skip


def contradiction(sentence: Sentence, cited: Sequence[Fact], devices: frozenset[str]) -> str:
    """The first number or device of the sentence that its facts do not hold, or ''."""
    text = _CITATION.sub("", sentence.text)
    words = " ".join(fact.text for fact in cited)
    numbers = [float(len(cited)), *(value for fact in cited for value in _values(fact.data)), *_numbers(words)]
    for written in _NUMBER.findall(text):
        if not any(_agrees(written, number) for number in numbers):
            return str(written)
    named = " ".join([words, *(str(value) for fact in cited for value in _texts(fact.data))])
    return next((word for word in _ID.findall(text) if word in devices and word not in named), "")


def _agrees(written: str, number: float) -> bool:
    """Whether `written` is `number`, rounded to the digits that are written; 12% is 0.12 or 12."""
    percent, digits = written.endswith("%"), written.rstrip("%").replace(",", "")
    try:
        value = float(digits)
    except ValueError:
        return False
    decimals = len(digits.partition(".")[2]) if "e" not in digits.lower() else 6
    tolerance = 0.5 * 10.0**-decimals + 1e-9 * abs(number)
    return abs(value - number) <= tolerance or (percent and abs(value - 100 * number) <= tolerance)


def _numbers(text: str) -> Iterator[float]:
    """The numbers in a text, and the parts of dates and names."""
    for digits in re.findall(r"\d+(?:\.\d+)?", text):
        yield float(digits)


def _values(data: Any, name: str = "") -> Iterator[float]:
    """The numbers in the data; times also in seconds."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _values(value, str(key))
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _values(value, name)
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield float(data)
        if name.endswith("_us"):
            yield float(data) / 1e6


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, Mapping):
        data = list(data.values())
    if isinstance(data, list | tuple):
        for value in data:
            yield from _texts(value)
    elif isinstance(data, str):
        yield data
