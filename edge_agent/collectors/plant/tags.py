"""Tag lists: which values a plant collector reads. From `[[collectors.tags]]` in TOML or from a CSV file.

Every error names the file and line (or the table), the column, and the cure. The first errors are reported together,
so that a list of a thousand tags is not corrected one error at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import msgspec

from shared.errors import ConfigError
from shared.ids import first_duplicate, metric_name
from shared.protocol.messages import MetricKind
from shared.suggestions import explained, nearest

MAX_TAGS = 20_000
SHOWN_ERRORS = 5
TagKind = Literal["auto", "gauge", "counter", "state"]


class Tag(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A value of the plant. `name` is the last part of its metric. A number is read as `raw * scale + offset`.

    `low` and `high` are its range in `unit` (UCUM). Without `deadband` each reading is a sample; with it only a change
    by more than that, in `unit`. `group` is its polling group. `kind` of the metric; `auto`: `state` for text.
    """

    name: str
    unit: str = "1"
    scale: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    deadband: float | None = None
    group: str = "default"
    writable: bool = False
    kind: TagKind = "auto"
    description: str = ""

    def __post_init__(self) -> None:
        metric_name(self.name)
        if not math.isfinite(self.scale) or self.scale == 0 or not math.isfinite(self.offset):
            raise ValueError("scale and offset must be finite numbers, and scale not 0")
        if not all(math.isfinite(bound) for bound in (self.low, self.high) if bound is not None):
            raise ValueError("low and high must be finite numbers")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must be below high")
        if self.deadband is not None and not 0 <= self.deadband < math.inf:
            raise ValueError("deadband must be 0 or more")

    @property
    def is_text(self) -> bool:
        """Whether its values are text."""
        return getattr(self, "type", "") == "string"

    @property
    def metric_kind(self) -> MetricKind:
        """Kind of its metric."""
        if self.kind == "auto":
            return "state" if self.is_text else "gauge"
        return self.kind


TagT = TypeVar("TagT", bound=Tag)


@dataclass(frozen=True, slots=True)
class Row:
    """A tag as it was written: `place` says where; `text`: every value is text, as in CSV."""

    place: str
    values: Mapping[str, Any]
    text: bool = False


def toml_rows(tables: Sequence[Any], place: str) -> list[Row]:
    """Rows of `[[collectors.tags]]`."""
    return [
        Row(f"{place}.tags[{number}]", table if isinstance(table, dict) else {"name": table})
        for number, table in enumerate(tables)
    ]


def parse_tags(rows: Iterable[Row], kind: type[TagT], place: str) -> list[TagT]:
    """The tags of all rows; raises ConfigError with the first few errors."""
    tags: list[TagT] = []
    errors: list[str] = []
    for row in rows:
        try:
            tags.append(msgspec.convert(row.values, kind, strict=not row.text))
        except msgspec.ValidationError as error:
            errors.append(_describe(row, error, kind))
    if not errors and (twice := first_duplicate([tag.name for tag in tags])) is not None:
        errors.append(f"{place}: the name '{twice}' is there twice")
    if not errors and not tags:
        errors.append(f"{place}: there is no tag")
    if not errors and len(tags) > MAX_TAGS:
        errors.append(f"{place}: {len(tags)} tags, at most {MAX_TAGS} are allowed. Use several collectors")
    if errors:
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        cure = "Correct the tag list; its columns are listed in docs/scada/plant-tags.md"
        raise ConfigError(place, "; ".join(errors[:SHOWN_ERRORS]) + more, cure)
    return tags


def columns(kind: type[Tag]) -> list[str]:
    """Names of the columns of a tag list."""
    return list(kind.__struct_fields__)


_COLUMN = re.compile(r" - at `\$\.([a-z_]+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`", re.DOTALL)


def _describe(row: Row, error: msgspec.ValidationError, kind: type[Tag]) -> str:
    """One error of a row: where, which column, what, and the nearest allowed word."""
    text = str(error)
    name = row.values.get("name")
    head = f"{row.place}{f' ({str(name)[:80]})' if name else ''}"
    if unknown := _UNKNOWN.search(text):
        return f"{head}: there is no column '{unknown[1][:80]}'{nearest(unknown[1], columns(kind))}"
    found = _COLUMN.search(text)
    if found is None:
        return f"{head}: {text.removesuffix(' - at `$`')}"
    given = row.values.get(found[1])
    hint = nearest(str(given), _choices(kind, found[1]))
    if row.text and not hint and isinstance(given, str) and re.fullmatch(r"-?\d+,\d+", given):
        hint = ". Write a decimal point, not a comma"
    return f"{head}: column '{found[1]}': {_COLUMN.sub('', explained(error, kind))} (given: '{str(given)[:60]}'){hint}"


def _choices(kind: type[Tag], column: str) -> list[str]:
    return [str(choice) for choice in get_args(get_type_hints(kind)[column])]
