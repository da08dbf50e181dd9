"""Parses the query language over twins to a tree. The grammar is that of Azure IoT Hub's twin queries.

    SELECT * | item, ...  FROM devices  [WHERE condition]  [GROUP BY path, ...]  [ORDER BY id [ASC | DESC]]

A comparison of a missing value, or of two values of different types, is undefined; so is NOT of it. What is undefined
selects nothing. Text comes from people and programs that are not trusted: its size, nesting and terms are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
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
    parser = _Parser(text)
    return parser.parse_all(parser.query)


def condition(text: str, roots: Collection[str] = ()) -> Condition:
    """The condition alone: `tags.site = 'a'`, `*` for every device, or a whole query that counts nothing.

    `roots` are first names of paths that the caller reads itself, beside those of a device.
    """
    parser = _Parser(text, roots)
    if not parser.tokens.peek_is("SELECT"):
        return parser.parse_all(parser.everything if parser.tokens.peek_is("*") else parser.condition)
    query = parser.parse_all(parser.query)
    if query.grouped:
        raise parser.tokens.error(0, "a condition is wanted here, and this query counts: give what is after WHERE")
    return query.where


class _Parser:
    """Recursive descent; each method takes one phrase from the front of the tokens."""

    def __init__(self, text: str, roots: Collection[str] = ()) -> None:
        self.tokens, self._roots = TokenStream(text), roots
        self._terms, self._depth = 0, 0
        self._documents: set[str] = set()

    def parse_all(self, phrase: Callable[[], _T]) -> _T:
        """Parse `phrase` and require the end of the text after it."""
        result = phrase()
        if self.tokens.next.kind != "end":
            raise self.tokens.expected("the end, AND or OR")
        return result

    def everything(self) -> Condition:
        """`*`."""
        self.tokens.expect("*")
        return EVERYTHING

    # -- the query

    def query(self) -> Query:
        """SELECT ... FROM devices ..."""
        tokens, start = self.tokens, self.tokens.next.at
        tokens.expect("SELECT")
        items = () if tokens.accept("*") else self._items()
        tokens.expect("FROM")
        if not tokens.accept("DEVICES"):
            raise tokens.expected("devices")
        where = self.condition() if tokens.accept("WHERE") else EVERYTHING
        group = self._group() if tokens.accept("GROUP") else ()
        if group and not items:
            raise tokens.error(start, "GROUP BY needs named items: SELECT path, COUNT() AS n")
        query = Query(items, where, group)
        loose = [item.name for item in items if isinstance(item.value, Path) and item.value not in group]
        if query.grouped and loose:
            raise tokens.error(start, f"'{loose[0]}' is neither counted nor in GROUP BY")
        return self._ordered(query)

    def _ordered(self, query: Query) -> Query:
        tokens = self.tokens
        if query.grouped and tokens.peek_is("ORDER"):
            raise tokens.error(tokens.next.at, "rows that count are in the order of their groups: leave ORDER BY out")
        if not tokens.accept("ORDER"):
            return query
        tokens.expect("BY")
        if not (tokens.accept("ID") or tokens.accept("DEVICEID")):
            raise tokens.expected("id (rows are ordered by id only)")
        descending = tokens.accept("DESC")
        if not descending:
            tokens.accept("ASC")
        return Query(query.items, query.where, query.group, descending)

    def _items(self) -> tuple[Item, ...]:
        items: dict[str, Item] = {}
        while True:
            at = self.tokens.next.at
            value = self._column()
            name = self.tokens.label() if self.tokens.accept("AS") else _own_name(value)
            if name in items:
                raise self.tokens.error(at, f"two columns are named '{name[:40]}': name one with AS")
            items[name] = Item(name, value)
            if not self.tokens.accept(","):
                return tuple(items.values())

    def _column(self) -> Path | Aggregate:
        verb = self.tokens.next.text.lower()
        if verb not in AGGREGATES or not self.tokens.is_call:
            return self._path()
        self._opened()
        counts = verb == "count"
        if counts:
            self.tokens.accept("*")
        path = None if counts else self._path()
        self.tokens.expect(")")
        return Aggregate(verb, path)

    def _group(self) -> tuple[Path, ...]:
        self.tokens.expect("BY")
        paths = [self._path()]
        while self.tokens.accept(","):
            paths.append(self._path())
        return tuple(paths)

    # -- the condition

    def condition(self) -> Condition:
        """Conditions joined by OR."""
        parts = [self._all()]
        while self.tokens.accept("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self.tokens.accept("AND"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Condition:
        tokens = self.tokens
        if not (tokens.peek_is("NOT") or tokens.peek_is("(")):
            return self._test() if tokens.is_call else self._comparison()
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise tokens.error(tokens.next.at, f"more than {MAX_NESTING} nested conditions")
        if tokens.accept("NOT"):
            result: Condition = Not(self._one())
        else:
            tokens.expect("(")
            result = self.condition()
            tokens.expect(")")
        self._depth -= 1
        return result

    def _comparison(self) -> Condition:
        tokens, start = self.tokens, self.tokens.next
        left = self._operand("a condition")
        if isinstance(left, Path) and (tokens.peek_is("IN") or tokens.peek_is("NIN")):
            is_in = tokens.advance().text.upper() == "IN"
            inside = In(left, self._list())
            return inside if is_in else Not(inside)
        op = _COMPARISONS.get(tokens.next.text)
        if op is None and isinstance(left, Path):
            return Compare("=", left, Literal(True))  # a value that is itself true or false
        if op is None:
            raise tokens.expected("= != < <= > or >=")
        tokens.advance()
        right = self._operand("a value")
        if isinstance(left, Literal) and isinstance(right, Literal):
            raise tokens.error(start.at, "a comparison needs a field on one side")
        return Compare(op, left, right)

    def _test(self) -> Condition:
        verb = self.tokens.next.text.lower()
        if verb not in TESTS and verb not in TEXT_TESTS:
            raise self.tokens.expected(f"one of {', '.join((*TESTS, 'startswith', 'endswith', 'contains'))}")
        self._opened()
        path = self._path()
        if verb in TESTS:
            self.tokens.expect(")")
            return Is(TESTS[verb], path)
        self.tokens.expect(",")
        part = self.tokens.string()
        self.tokens.expect(")")
        return TextTest(TEXT_TESTS[verb], path, part)

    def _opened(self) -> None:
        """A function's name and its parenthesis."""
        self.tokens.advance()
        self.tokens.expect("(")

    def _list(self) -> tuple[Scalar, ...]:
        tokens = self.tokens
        end = ")" if tokens.accept("(") else "]"
        if end == "]" and not tokens.accept("["):
            raise tokens.expected("a list such as ['a', 'b']")
        values = [tokens.literal("a value")]
        while tokens.accept(","):
            values.append(tokens.literal("a value"))
            if len(values) > MAX_VALUES:
                raise tokens.error(tokens.next.at, f"more than {MAX_VALUES} values in one list")
        tokens.expect(end)
        return tuple(values)

    # -- operands

    def _operand(self, what: str) -> Operand:
        token = self.tokens.next
        if token.kind in {"string", "number"} or (token.kind == "name" and token.text.upper() in CONSTANTS):
            return Literal(self.tokens.literal(what))
        return self._path(what)

    def _path(self, what: str = "a field") -> Path:
        tokens, first = self.tokens, self.tokens.next
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise tokens.error(first.at, f"more than {MAX_TERMS} fields in one query")
        if first.kind != "name":
            raise tokens.expected(f"{what} ({_KNOWN})")
        tokens.advance()
        names: list[str] = []
        while tokens.accept("."):
            names.append(tokens.name())
        path = Path(first.text, tuple(names)) if first.text in self._roots else _path(first.text, tuple(names))
        if path is None:
            raise tokens.error(first.at, f"expected {what} ({_KNOWN}), found '{'.'.join((first.text, *names))[:80]}'")
        if len(names) > MAX_NAMES:
            raise tokens.error(first.at, f"more than {MAX_NAMES} names on one path")
        self._documents |= {path.document}
        if len(self._documents) > MAX_DOCUMENTS:
            raise tokens.error(first.at, f"more than {MAX_DOCUMENTS} documents in one query")
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
