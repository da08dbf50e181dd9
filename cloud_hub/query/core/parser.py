"""The query language over twins: text to a tree. A core. The grammar is that of Azure IoT Hub's twin queries.

    SELECT * | item, ...  FROM devices  [WHERE condition]  [GROUP BY path, ...]  [ORDER BY id [ASC | DESC]]

A comparison of a missing value, or of two values of different types, is undefined; so is NOT of it. What is undefined
selects nothing. Text comes from people and programs that are not trusted: its size, nesting and terms are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cloud_hub.query.core.lexer import CONSTANTS, TokenStream
from cloud_hub.query.core.tree import (
    AGGREGATES,
    EVERYTHING,
    FIELDS,
    MAX_DOCUMENTS,
    MAX_NAMES,
    MAX_NESTING,
    MAX_TERMS,
    MAX_VALUES,
    TESTS,
    TEXT_TESTS,
    Aggregate,
    And,
    Compare,
    Condition,
    In,
    Is,
    Item,
    Literal,
    Not,
    Operand,
    Or,
    Path,
    Query,
    Scalar,
    TextTest,
)
from shared.ids import SHADOW_NAME

_T = TypeVar("_T")
_COMPARISONS = {"=": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_KNOWN = f"{', '.join(FIELDS)}, tags.x, desired.x, reported.x, shadow.<name>.reported.x"


def parse(text: str) -> Query:
    """A whole query. Raises QueryError."""
    phrase = _Phrases(text)
    return phrase.whole(phrase.query)


def condition(text: str) -> Condition:
    """The condition alone: `tags.site = 'a'`, `*` for every device, or a whole query that counts nothing."""
    phrase = _Phrases(text)
    if not phrase.words.peek_is("SELECT"):
        return phrase.whole(phrase.everything if phrase.words.peek_is("*") else phrase.condition)
    query = phrase.whole(phrase.query)
    if query.grouped:
        raise phrase.words.error(0, "a condition is wanted here, and this query counts: give what is after WHERE")
    return query.where


class _Phrases:
    """Recursive descent; each method takes one phrase from the front of the words."""

    def __init__(self, text: str) -> None:
        self.words = TokenStream(text)
        self._terms, self._depth = 0, 0
        self._documents: set[str] = set()

    def whole(self, phrase: Callable[[], _T]) -> _T:
        """`phrase`, and nothing after it."""
        result = phrase()
        if self.words.next.kind != "end":
            raise self.words.expected("the end, AND or OR")
        return result

    def everything(self) -> Condition:
        """`*`."""
        self.words.expect("*")
        return EVERYTHING

    # -- the query

    def query(self) -> Query:
        """SELECT ... FROM devices ..."""
        words, start = self.words, self.words.next.at
        words.expect("SELECT")
        items = () if words.accept("*") else self._items()
        words.expect("FROM")
        if not words.accept("DEVICES"):
            raise words.expected("devices")
        where = self.condition() if words.accept("WHERE") else EVERYTHING
        group = self._group() if words.accept("GROUP") else ()
        if group and not items:
            raise words.error(start, "GROUP BY needs named items: SELECT path, COUNT() AS n")
        query = Query(items, where, group)
        loose = [item.name for item in items if isinstance(item.value, Path) and item.value not in group]
        if query.grouped and loose:
            raise words.error(start, f"'{loose[0]}' is neither counted nor in GROUP BY")
        return self._ordered(query)

    def _ordered(self, query: Query) -> Query:
        words = self.words
        if query.grouped and words.peek_is("ORDER"):
            raise words.error(words.next.at, "rows that count are in the order of their groups: leave ORDER BY out")
        if not words.accept("ORDER"):
            return query
        words.expect("BY")
        if not (words.accept("ID") or words.accept("DEVICEID")):
            raise words.expected("id (rows are ordered by id only)")
        descending = words.accept("DESC")
        if not descending:
            words.accept("ASC")
        return Query(query.items, query.where, query.group, descending)

    def _items(self) -> tuple[Item, ...]:
        items: dict[str, Item] = {}
        while True:
            at = self.words.next.at
            value = self._column()
            name = self.words.label() if self.words.accept("AS") else _own_name(value)
            if name in items:
                raise self.words.error(at, f"two columns are named '{name[:40]}': name one with AS")
            items[name] = Item(name, value)
            if not self.words.accept(","):
                return tuple(items.values())

    def _column(self) -> Path | Aggregate:
        verb = self.words.next.text.lower()
        if verb not in AGGREGATES or not self.words.is_call:
            return self._path()
        self._opened()
        counts = verb == "count"
        if counts:
            self.words.accept("*")
        path = None if counts else self._path()
        self.words.expect(")")
        return Aggregate(verb, path)

    def _group(self) -> tuple[Path, ...]:
        self.words.expect("BY")
        paths = [self._path()]
        while self.words.accept(","):
            paths.append(self._path())
        return tuple(paths)

    # -- the condition

    def condition(self) -> Condition:
        """Conditions joined by OR."""
        parts = [self._all()]
        while self.words.accept("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self.words.accept("AND"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Condition:
        words = self.words
        if not (words.peek_is("NOT") or words.peek_is("(")):
            return self._test() if words.is_call else self._comparison()
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise words.error(words.next.at, f"more than {MAX_NESTING} nested conditions")
        if words.accept("NOT"):
            result: Condition = Not(self._one())
        else:
            words.expect("(")
            result = self.condition()
            words.expect(")")
        self._depth -= 1
        return result

    def _comparison(self) -> Condition:
        words, start = self.words, self.words.next
        left = self._operand("a condition")
        if isinstance(left, Path) and (words.peek_is("IN") or words.peek_is("NIN")):
            found = words.advance().text.upper() == "IN"
            inside = In(left, self._list())
            return inside if found else Not(inside)
        op = _COMPARISONS.get(words.next.text)
        if op is None and isinstance(left, Path):
            return Compare("=", left, Literal(True))  # a value that is itself true or false
        if op is None:
            raise words.expected("= != < <= > or >=")
        words.advance()
        right = self._operand("a value")
        if isinstance(left, Literal) and isinstance(right, Literal):
            raise words.error(start.at, "a comparison needs a field on one side")
        return Compare(op, left, right)

    def _test(self) -> Condition:
        verb = self.words.next.text.lower()
        if verb not in TESTS and verb not in TEXT_TESTS:
            raise self.words.expected(f"one of {', '.join((*TESTS, 'startswith', 'endswith', 'contains'))}")
        self._opened()
        path = self._path()
        if verb in TESTS:
            self.words.expect(")")
            return Is(TESTS[verb], path)
        self.words.expect(",")
        part = self.words.string()
        self.words.expect(")")
        return TextTest(TEXT_TESTS[verb], path, part)

    def _opened(self) -> None:
        """A function's name and its parenthesis."""
        self.words.advance()
        self.words.expect("(")

    def _list(self) -> tuple[Scalar, ...]:
        words = self.words
        end = ")" if words.accept("(") else "]"
        if end == "]" and not words.accept("["):
            raise words.expected("a list such as ['a', 'b']")
        values = [words.literal("a value")]
        while words.accept(","):
            values.append(words.literal("a value"))
            if len(values) > MAX_VALUES:
                raise words.error(words.next.at, f"more than {MAX_VALUES} values in one list")
        words.expect(end)
        return tuple(values)

    # -- operands

    def _operand(self, what: str) -> Operand:
        word = self.words.next
        if word.kind in {"string", "number"} or (word.kind == "name" and word.text.upper() in CONSTANTS):
            return Literal(self.words.literal(what))
        return self._path(what)

    def _path(self, what: str = "a field") -> Path:
        words, first = self.words, self.words.next
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise words.error(first.at, f"more than {MAX_TERMS} fields in one query")
        if first.kind != "name":
            raise words.expected(f"{what} ({_KNOWN})")
        words.advance()
        names: list[str] = []
        while words.accept("."):
            names.append(words.name())
        path = _path(first.text, tuple(names))
        if path is None:
            raise words.error(first.at, f"expected {what} ({_KNOWN}), found '{'.'.join((first.text, *names))[:80]}'")
        if len(names) > MAX_NAMES:
            raise words.error(first.at, f"more than {MAX_NAMES} names on one path")
        self._documents |= {path.document}
        if len(self._documents) > MAX_DOCUMENTS:
            raise words.error(first.at, f"more than {MAX_DOCUMENTS} documents in one query")
        return path


def _own_name(value: Path | Aggregate) -> str:
    return value.verb if isinstance(value, Aggregate) else value.names[-1] if value.names else value.root


def _path(first: str, names: tuple[str, ...]) -> Path | None:
    """Where the names lead; None when there is no such place."""
    first = "id" if first == "deviceId" else first
    if first in FIELDS:
        return None if names else Path("device", (first,))
    if first == "tags":
        return Path("tags", names)
    document = ""
    if first == "properties" and names:
        first, names = names[0], names[1:]
    elif first == "shadow" and len(names) >= 2 and SHADOW_NAME.match(names[0]):
        document, first, names = names[0], names[1], names[2:]
    return Path("twin", (first, *names), document) if first in {"desired", "reported"} else None
