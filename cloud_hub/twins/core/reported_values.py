"""Reads values from reported state by type. A device may report anything; a value of another type is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_STARTS = 1 << 53
"""Larger counts are invalid: not every database can store them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as its device reports it: how often it started, and whether it runs."""

    starts: int = 0
    state: str = ""


def mapping(value: object) -> Mapping[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str:
    """The value where it is text, else ''."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int:
    """The value where it is a whole number from 0 on, else 0."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STARTS
    return int(value) if good else 0  # type: ignore[call-overload]


def model(value: object) -> Model:
    """One model's state."""
    fields = mapping(value)
    return Model(starts=count(fields.get("starts")), state=text(fields.get("state")))


def models(document: object) -> dict[str, Model]:
    """The models in the reported part of the classic document, by name."""
    found = mapping(mapping(document).get("models"))
    return {name: model(value) for name, value in found.items() if isinstance(value, dict)}


def metrics(birth: object) -> dict[str, str]:
    """The metrics of a device's last birth: their kinds by name."""
    rows = [mapping(row) for row in birth] if isinstance(birth, list) else []
    return {text(row.get("name")): text(row.get("kind")) or "gauge" for row in rows if text(row.get("name"))}
