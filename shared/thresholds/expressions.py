"""Parser for conditions over several metrics: `cpu.load > 90 and queue.length > 20`. A recursive-descent parser turns
the text into functions over numbers; nothing is passed to `eval`.

    truth   = both { "or" both }             both = denied { "and" denied }
    denied  = "not" denied | sum [ ("<" | "<=" | ">" | ">=" | "==" | "!=") sum ]
    sum     = product { ("+" | "-") product }   product = factor { ("*" | "/" | "%") factor }
    factor  = "-" factor | number | metric | "(" truth ")"

A metric's name may contain `.`, `/` and `-`, so put blanks around operators: `a / b` divides, `a/b` is one name.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

LONGEST, DEEPEST = 500, 30
"""Maximum characters of a condition, and its maximum nesting depth."""

Values = Mapping[str, float]
Term = Callable[[Values], float]

_TOKEN = re.compile(r"\s*(?:([a-z0-9_][a-z0-9_-]*(?:[./][a-z0-9_-]+)*)|(<=|>=|==|!=|[<>+*/%()-]))")
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?\Z")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_SUM: dict[str, Callable[[float, float], float]] = {"+": operator.add, "-": operator.sub}
_PRODUCT: dict[str, Callable[[float, float], float]] = {"*": operator.mul, "/": operator.truediv, "%": operator.mod}


class _NoNumber(ArithmeticError):
    """A part of the condition has no finite value: division by zero or overflow."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition; `metrics` are the names in it."""

    text: str
    metrics: frozenset[str]
    _term: Term

    def holds(self, values: Values) -> bool | None:
        """Whether it is true; None if a metric is missing or a part has no value (division by 0, overflow)."""
        if not self.metrics <= values.keys():
            return None
        try:
            return bool(self._term(values))
        except ArithmeticError:
            return None


@lru_cache(1024)
def parse(text: str) -> Condition:
    """Parse a condition; raises ValueError with the position (from 1) and what was expected there."""
    if len(text) > LONGEST:
        raise ValueError(f"a condition has at most {LONGEST} characters, this one {len(text)}")
    reader = _Reader(text)
    place = reader.place
    term, is_truth = reader.truth(0)
    if reader.word:
        raise reader.error(f"expected the end or an operator, not '{reader.word}'")
    if not is_truth:
        raise reader.error("a number is no condition: compare it, such as cpu.load > 90", place)
    return Condition(text, frozenset(reader.metrics), term)


class _Reader:
    """Parses from left to right; each method returns a function and whether its value is a truth (else a number)."""

    def __init__(self, text: str) -> None:
        self._text, self._end = text, 0
        self.metrics: set[str] = set()
        self.next()

    def next(self) -> None:
        """Advance to the next token; '' at the end."""
        match = _TOKEN.match(self._text, self._end)
        rest = self._text[self._end :]
        self.place = self._end + len(rest) - len(rest.lstrip())
        if not match and rest.strip():
            raise self.error(f"'{rest.strip()[0]}' means nothing here; names of metrics are in lower case")
        self.word = (match[1] or match[2]) if match else ""
        self._end = match.end() if match else len(self._text)

    def error(self, reason: str, place: int | None = None) -> ValueError:
        """A ValueError with `reason` and the position."""
        return ValueError(f"condition '{self._text}', at {(self.place if place is None else place) + 1}: {reason}")

    def truth(self, depth: int) -> tuple[Term, bool]:
        """Parse a whole condition; `or` binds weaker than `and`."""
        return self._joined("or", lambda: self._joined("and", lambda: self._denied(depth)))

    def _joined(self, word: str, inner: Callable[[], tuple[Term, bool]]) -> tuple[Term, bool]:
        place = self.place
        first, is_truth = inner()
        terms = [first]
        while self.word == word:
            self._demand(is_truth, True, place)
            self.next()
            place = self.place
            term, is_truth = inner()
            self._demand(is_truth, True, place)
            terms.append(term)
        if len(terms) == 1:
            return first, is_truth
        # No short circuit: whether the condition has a value must not depend on the order of its parts.
        decide = any if word == "or" else all
        return lambda values: decide([term(values) for term in terms]), True

    def _denied(self, depth: int) -> tuple[Term, bool]:
        if self.word != "not":
            return self._comparison(depth)
        self._deeper(depth)
        self.next()
        place = self.place
        term, is_truth = self._denied(depth + 1)
        self._demand(is_truth, True, place)
        return lambda values: not term(values), True

    def _comparison(self, depth: int) -> tuple[Term, bool]:
        place = self.place
        left, is_truth = self._sum(depth)
        compare = _COMPARE.get(self.word)
        if compare is None:
            return left, is_truth
        self._demand(is_truth, False, place)
        self.next()
        place = self.place
        right, is_truth = self._sum(depth)
        self._demand(is_truth, False, place)
        if self.word in _COMPARE:
            raise self.error("two comparisons in a row: write a < b and b < c")
        return lambda values: compare(left(values), right(values)), True

    def _sum(self, depth: int) -> tuple[Term, bool]:
        return self._chain(_SUM, lambda: self._chain(_PRODUCT, lambda: self._factor(depth)))

    def _chain(
        self, operators: Mapping[str, Callable[[float, float], float]], inner: Callable[[], tuple[Term, bool]]
    ) -> tuple[Term, bool]:
        place = self.place
        term, is_truth = inner()
        while apply := operators.get(self.word):
            self._demand(is_truth, False, place)
            self.next()
            place = self.place
            right, is_truth = inner()
            self._demand(is_truth, False, place)
            term = _applied(apply, term, right)
        return term, is_truth

    def _factor(self, depth: int) -> tuple[Term, bool]:
        self._deeper(depth)
        word, place = self.word, self.place
        if not word or word in {"and", "or"} or not (word[0].isalnum() or word[0] in "_-("):
            raise self.error(f"expected a metric, a number or '(', not {repr(word) if word else 'the end'}")
        self.next()
        if word == "(":
            inner = self.truth(depth + 1)
            if self.word != ")":
                raise self.error("expected ')'")
            self.next()
            return inner
        if word == "-":
            place = self.place
            term, is_truth = self._factor(depth + 1)
            self._demand(is_truth, False, place)
            return lambda values: -term(values), False
        return self._leaf(word, place), False

    def _leaf(self, word: str, place: int) -> Term:
        if _NUMBER.match(word):
            number = float(word)
            if not math.isfinite(number):
                raise self.error(f"{word} is too large", place)
            return lambda values: number
        if word[0].isdigit():
            raise self.error(f"'{word}' is no number; put blanks round operators", place)
        self.metrics.add(word)
        return lambda values: values[word]

    def _deeper(self, depth: int) -> None:
        if depth > DEEPEST:
            raise self.error(f"nested more than {DEEPEST} deep")

    def _demand(self, is_truth: bool, wanted: bool, place: int) -> None:
        if is_truth != wanted:
            expected = "a condition, such as cpu.load > 90" if wanted else "a number or a metric"
            raise self.error(f"expected {expected}", place)


def _applied(apply: Callable[[float, float], float], left: Term, right: Term) -> Term:
    def result(values: Values) -> float:
        value = apply(left(values), right(values))
        if not math.isfinite(value):
            raise _NoNumber
        return value

    return result
