"""Defines the syntax tree of a query, and its limits."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BYTES = 8192
MAX_NESTING = 32
MAX_TERMS = 64
"""Fields in one query."""
MAX_VALUES = 1000
"""Values of one IN list."""
MAX_NAMES = 16
"""Names on one path."""
MAX_DOCUMENTS = 8
"""Different named documents in one query: each is a join."""

Scalar = str | int | float | bool | None

FIELDS = {
    "id": "string", "state": "string", "profile": "string", "version": "string", "asset_path": "string",
    "assigned_path": "string", "born_us": "number", "seen_us": "number",
}  # fmt: skip
"""A device's own fields, with the type that each always has."""
TESTS = {f"is_{kind}": kind for kind in ("defined", "null", "bool", "number", "string", "object", "array")}
TEXT_TESTS = {
    "startswith": "startswith", "starts_with": "startswith", "endswith": "endswith", "ends_with": "endswith",
    "contains": "contains",
}  # fmt: skip
AGGREGATES = ("count", "sum", "avg", "min", "max")


@dataclass(frozen=True, slots=True)
class Path:
    """A value of a device; `root` is `device` (one of FIELDS), `tags` or `twin` (of `document`, '' the classic one)."""

    root: str
    names: tuple[str, ...]
    document: str = ""


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that stands in the query."""

    value: Scalar


Operand = Path | Literal


@dataclass(frozen=True, slots=True)
class Compare:
    """`left op right`; undefined unless both are of one primitive type."""

    op: str
    left: Operand
    right: Operand


@dataclass(frozen=True, slots=True)
class In:
    """Short for `path = a OR path = b ...`."""

    path: Path
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Is:
    """Whether the value is there (`defined`) or of a type. True or false, never undefined."""

    kind: str
    path: Path


@dataclass(frozen=True, slots=True)
class TextTest:
    """`startswith`, `endswith` or `contains`; undefined unless both are strings."""

    verb: str
    path: Path
    part: str


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; undefined stays undefined."""

    inner: Condition


@dataclass(frozen=True, slots=True)
class And:
    """All of them; none at all is true."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of them."""

    parts: tuple[Condition, ...]


Condition = Compare | In | Is | TextTest | Not | And | Or
EVERYTHING = And(())


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One of AGGREGATES, over the numbers at `path`; `count` has none and counts devices."""

    verb: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Item:
    """One column of the answer."""

    name: str
    value: Path | Aggregate


@dataclass(frozen=True, slots=True)
class Query:
    """A whole query. No items means `*`."""

    items: tuple[Item, ...]
    where: Condition
    group: tuple[Path, ...] = ()
    descending: bool = False

    @property
    def grouped(self) -> bool:
        """Whether rows aggregate devices."""
        return bool(self.group) or any(isinstance(item.value, Aggregate) for item in self.items)
