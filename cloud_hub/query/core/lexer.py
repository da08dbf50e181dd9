"""Splits a query into tokens with their positions, and makes errors that point at one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cloud_hub.query.core.tree import MAX_BYTES, Scalar


class QueryError(ValueError):
    """A text that is no query. The message names line and column, what was expected, and points at it."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token: `kind` is name, quoted, string, number, sign or end; `at` counts characters from 0."""

    kind: str
    text: str
    at: int


CONSTANTS: dict[str, Scalar] = {"TRUE": True, "FALSE": False, "NULL": None}
_WORD = re.compile(
    r"""\s+
    | (?P<quoted> \[\[ .+? \]\] (?!\]) )
    | (?P<string> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" )
    | (?P<number> -?[0-9]+ (?:\.[0-9]+)? (?:[eE][+-]?[0-9]+)? )
    | (?P<name> [^\W\d][\w-]* )
    | (?P<sign> != | <> | <= | >= | [=<>()\[\],.*] )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\([\\'\"])|\\|''|\"\"")
_BARRED = re.compile(r'["\\\x00-\x1f]')


class TokenStream:
    """The tokens of a query, consumed from the front."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            raise QueryError(f"the query is longer than {MAX_BYTES} bytes")
        self._text = text
        self._words = list(self._split())
        self._at = 0

    def _split(self) -> Iterator[Token]:
        at = 0
        while at < len(self._text):
            match = _WORD.match(self._text, at)
            if match is None:
                begun = self._text[at] in "'\""
                raise self.error(at, "this string has no end" if begun else f"unexpected {self._text[at]!a}")
            if match.lastgroup:
                yield Token(match.lastgroup, match.group(), at)
            at = match.end()
        yield Token("end", "", at)

    @property
    def next(self) -> Token:
        """The next token."""
        return self._words[self._at]

    @property
    def is_call(self) -> bool:
        """Whether the next token is followed by a parenthesis, as a function is."""
        return self.next.kind == "name" and self._words[self._at + 1].text == "("

    def peek_is(self, text: str) -> bool:
        """Whether the next token is this sign or, in any case, this keyword."""
        return self.next.kind in {"name", "sign"} and self.next.text.upper() == text

    def advance(self) -> Token:
        """Consume the next token; the end stays."""
        token = self.next
        self._at += token.kind != "end"
        return token

    def accept(self, text: str) -> bool:
        """Take this sign or keyword if it is in front."""
        seen = self.peek_is(text)
        self._at += seen
        return seen

    def expect(self, text: str) -> None:
        """Take this sign or keyword, which must be in front."""
        if not self.accept(text):
            raise self.expected(text)

    def expected(self, what: str) -> QueryError:
        """The error that the next token is not `what`."""
        actual = f"'{self.next.text[:40]}'" if self.next.text else "the end"
        return self.error(self.next.at, f"expected {what}, found {actual}")

    def error(self, at: int, message: str) -> QueryError:
        """The error with its place: line, column, and a caret below the line."""
        line, start = self._text.count("\n", 0, at) + 1, self._text.rfind("\n", 0, at) + 1
        column = at - start
        cut = max(0, column - 60)
        shown = self._text[start + cut : at + 40].partition("\n")[0]
        shown = "".join(character if character.isprintable() else " " for character in shown)
        return QueryError(f"line {line}, column {column + 1}: {message}\n{shown}\n{' ' * (column - cut)}^")

    # -- tokens with a value

    def literal(self, what: str) -> Scalar:
        """A string, a number, true, false or null."""
        if self.next.kind == "string":
            return self.string(what)
        if self.next.kind == "number":
            return self._number()
        if self.next.kind == "name" and self.next.text.upper() in CONSTANTS:
            return CONSTANTS[self.advance().text.upper()]
        raise self.expected(what)

    def _number(self) -> int | float:
        token = self.advance()
        if token.text.lstrip("-").isdecimal() and len(token.text) <= 18:
            return int(token.text)
        value = float(token.text)
        if not math.isfinite(value):
            raise self.error(token.at, "this number is too large")
        return value

    def string(self, what: str = "a string") -> str:
        """A string without its quotes and escapes."""
        if self.next.kind != "string":
            raise self.expected(what)
        token = self.advance()
        quote = token.text[0]

        def plain(match: re.Match[str]) -> str:
            if match[1]:
                return chr(int(match[1], 16))
            if match[0] == "\\":
                raise self.error(token.at, r"a string may hold \' \" \\ and \uXXXX after a backslash, nothing else")
            return match[2] or (quote if match[0] == quote * 2 else match[0])

        return self._sound(token, _ESCAPE.sub(plain, token.text[1:-1]))

    def label(self) -> str:
        """A plain name, or one in [[ ]] with any characters."""
        if self.next.kind not in {"name", "quoted"}:
            raise self.expected("a name, or [[a name with other characters]]")
        token = self.advance()
        return self._sound(token, token.text[2:-2] if token.kind == "quoted" else token.text)

    def name(self) -> str:
        """A name on a path."""
        at, name = self.next.at, self.label()
        if _BARRED.search(name):
            raise self.error(at, "a name on a path holds no double quote, backslash or control character")
        return name

    def _sound(self, token: Token, text: str) -> str:
        """`text` with its surrogate pairs joined; no document holds half of one, or a NUL."""
        try:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self.error(token.at, "this holds half of a surrogate pair, which no UTF-8 can carry") from None
        if "\0" in text:
            raise self.error(token.at, "this holds a NUL, which no query can ask for")
        return text
