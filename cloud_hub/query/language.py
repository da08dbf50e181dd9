"""The query language over twins: text to a tree. A core. The grammar is that of Azure IoT Hub's twin queries.

    SELECT * | item, ...  FROM devices  [WHERE condition]  [GROUP BY path, ...]  [ORDER BY id [ASC | DESC]]

A comparison of a missing value, or of two values of different types, is undefined; so is NOT of it. What is undefined
selects nothing. Text comes from people and programs that are not trusted: its size, nesting and terms are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cloud_hub.query.tree import (
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
from cloud_hub.query.words import CONSTANTS, Words
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
    if not phrase.words.sees("SELECT"):
        return phrase.whole(phrase.everything if phrase.words.sees("*") else phrase.condition)
    query = phrase.whole(phrase.query)
    if query.grouped:
        raise phrase.words.error(0, "a condition is wanted here, and this query counts: give what is after WHERE")
    return query.where


class _Phrases:
    """Recursive descent; each method takes one phrase from the front of the words."""

    def __init__(self, text: str) -> None:
        self.words = Words(text)
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
        self.words.need("*")
        return EVERYTHING

    # -- the query

    def query(self) -> Query:
        """SELECT ... FROM devices ..."""
        words, start = self.words, self.words.next.at
        words.need("SELECT")
        items = () if words.takes("*") else self._items()
        words.need("FROM")
        if not words.takes("DEVICES"):
            raise words.expected("devices")
        where = self.condition() if words.takes("WHERE") else EVERYTHING
        group = self._group() if words.takes("GROUP") else ()
        if group and not items:
            raise words.error(start, "GROUP BY needs named items: SELECT path, COUNT() AS n")
        query = Query(items, where, group)
        loose = [item.name for item in items if isinstance(item.value, Path) and item.value not in group]
        if query.grouped and loose:
            raise words.error(start, f"'{loose[0]}' is neither counted nor in GROUP BY")
        return self._ordered(query)

    def _ordered(self, query: Query) -> Query:
        words = self.words
        if query.grouped and words.sees("ORDER"):
            raise words.error(words.next.at, "rows that count are in the order of their groups: leave ORDER BY out")
        if not words.takes("ORDER"):
            return query
        words.need("BY")
        if not (words.takes("ID") or words.takes("DEVICEID")):
            raise words.expected("id (rows are ordered by id only)")
        descending = words.takes("DESC")
        if not descending:
            words.takes("ASC")
        return Query(query.items, query.where, query.group, descending)

    def _items(self) -> tuple[Item, ...]:
        items: dict[str, Item] = {}
        while True:
            at = self.words.next.at
            value = self._column()
            name = self.words.label() if self.words.takes("AS") else _own_name(value)
            if name in items:
                raise self.words.error(at, f"two columns are named '{name[:40]}': name one with AS")
            items[name] = Item(name, value)
            if not self.words.takes(","):
                return tuple(items.values())

    def _column(self) -> Path | Aggregate:
        verb = self.words.next.text.lower()
        if verb not in AGGREGATES or not self.words.calls:
            return self._path()
        self._opened()
        counts = verb == "count"
        if counts:
            self.words.takes("*")
        path = None if counts else self._path()
        self.words.need(")")
        return Aggregate(verb, path)

    def _group(self) -> tuple[Path, ...]:
        self.words.need("BY")
        paths = [self._path()]
        while self.words.takes(","):
            paths.append(self._path())
        return tuple(paths)

    # -- the condition

    def condition(self) -> Condition:
        """Conditions joined by OR."""
        parts = [self._all()]
        while self.words.takes("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self.words.takes("AND"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Condition:
        words = self.words
        if not (words.sees("NOT") or words.sees("(")):
            return self._test() if words.calls else self._comparison()
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise words.error(words.next.at, f"more than {MAX_NESTING} nested conditions")
        if words.takes("NOT"):
            result: Condition = Not(self._one())
        else:
            words.need("(")
            result = self.condition()
            words.need(")")
        self._depth -= 1
        return result

    def _comparison(self) -> Condition:
        words, start = self.words, self.words.next
        left = self._operand("a condition")
        if isinstance(left, Path) and (words.sees("IN") or words.sees("NIN")):
            found = words.take().text.upper() == "IN"
            inside = In(left, self._list())
            return inside if found else Not(inside)
        op = _COMPARISONS.get(words.next.text)
        if op is None and isinstance(left, Path):
            return Compare("=", left, Literal(True))  # a value that is itself true or false
        if op is None:
            raise words.expected("= != < <= > or >=")
        words.take()
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
            self.words.need(")")
            return Is(TESTS[verb], path)
        self.words.need(",")
        part = self.words.string()
        self.words.need(")")
        return TextTest(TEXT_TESTS[verb], path, part)

    def _opened(self) -> None:
        """A function's name and its parenthesis."""
        self.words.take()
        self.words.need("(")

    def _list(self) -> tuple[Scalar, ...]:
        words = self.words
        end = ")" if words.takes("(") else "]"
        if end == "]" and not words.takes("["):
            raise words.expected("a list such as ['a', 'b']")
        values = [words.literal("a value")]
        while words.takes(","):
            values.append(words.literal("a value"))
            if len(values) > MAX_VALUES:
                raise words.error(words.next.at, f"more than {MAX_VALUES} values in one list")
        words.need(end)
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
        words.take()
        names: list[str] = []
        while words.takes("."):
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
