"""A partial PromQL parser: finds the series that an alerting rule compares with numbers. Pure.

`cpu > 90`, `90 < cpu`, `(cpu > 90) and up == 1`: each part between `and`, `or` and `unless` that compares a series with
a number is a limit. Anything else (two series compared, `absent()`) is not a limit and is not returned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SELECTOR = re.compile(
    r"\s*(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)?\s*(?P<braces>\{(?:[^{}\"'`]|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')*\})?\s*\Z"
)
_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*\Z")
_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*|\d[\w.]*")
_COMPARE = re.compile(r"==|!=|>=|<=|>|<")
_AFTER_SET = re.compile(r"\s*(?:on|ignoring)\s*\([^()]*\)")
_COUNTED = ("_total", "_bucket", "_sum", "_count")

Sign = Literal[">", "<", ">=", "<=", "==", "!="]
_TURNED: dict[str, Sign] = {">": "<", "<": ">", ">=": "<=", "<=": ">=", "==": "==", "!=": "!="}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A series, given by its query, compared with a number."""

    query: str
    sign: Sign
    number: float


def find_comparisons(expression: str) -> list[Comparison]:
    """The limits in an expression, in order; none if it compares no series with a number."""
    return [comparison for part in _split_sets(expression) if (comparison := _comparison(part)) is not None]


def counter_name(query: str) -> str:
    """The metric's name if `query` is a plain selector whose name ends like a counter's, else ''."""
    match = SELECTOR.match(query)
    name = match["name"] if match and match["name"] else ""
    return name if name.endswith(_COUNTED) else ""


def selector_name(query: str) -> str:
    """The metric's name if `query` is a plain selector, else ''."""
    match = SELECTOR.match(query)
    return (match["name"] or "") if match else ""


def _bare(text: str) -> str:
    """The text without surrounding blanks and brackets."""
    text = text.strip()
    while text.startswith("(") and _end(text, 0) == len(text):
        text = text[1:-1].strip()
    return text


def _comparison(part: str) -> Comparison | None:
    part = _bare(part)
    if len(sets := _split_sets(part)) > 1:
        comparisons = [comparison for comparison in map(_comparison, sets) if comparison is not None]
        return comparisons[0] if comparisons else None
    places = [(start, sign) for start, sign in _top(part) if _COMPARE.fullmatch(sign)]
    if len(places) != 1:
        return None
    start, sign = places[0]
    left, right = _bare(part[:start]), _bare(re.sub(r"^\s*bool\b", "", part[start + len(sign) :]))
    if _NUMBER.match(right) and not _NUMBER.match(left) and left:
        return Comparison(query=left, sign=_TURNED[_TURNED[sign]], number=float(right))
    if _NUMBER.match(left) and right and not _NUMBER.match(right):
        return Comparison(query=right, sign=_TURNED[sign], number=float(left))
    return None


def _split_sets(text: str) -> list[str]:
    """The parts between `and`, `or` and `unless` outside of brackets."""
    parts, begin = [], 0
    for start, word in _top(text):
        if word.lower() in {"and", "or", "unless"}:
            parts.append(text[begin:start])
            begin = start + len(word)
            if after := _AFTER_SET.match(text, begin):
                begin = after.end()
    return [*parts, text[begin:]]


def _top(text: str) -> list[tuple[int, str]]:
    """(position, word or comparison operator) outside of brackets, braces and strings."""
    tokens, place = [], 0
    while place < len(text):
        if text[place] in "([{\"'`":
            place = _end(text, place)
            continue
        match = _WORD.match(text, place) or _COMPARE.match(text, place)
        if match:
            tokens.append((place, match[0]))
        place = match.end() if match else place + 1
    return tokens


def _end(text: str, start: int) -> int:
    """The end of the bracket or string that opens at `start`; the end of the text if it is not closed."""
    opened = text[start]
    place = start + 1
    if opened in "\"'`":
        while place < len(text) and text[place] != opened:
            place += 2 if text[place] == "\\" and opened != "`" else 1
        return min(place + 1, len(text))
    closed = {"(": ")", "[": "]", "{": "}"}[opened]
    while place < len(text) and text[place] != closed:
        place = _end(text, place) if text[place] in "([{\"'`" else place + 1
    return min(place + 1, len(text))
