"""Recorded messages of protocol 1, and what a newer side might add to them: unknown fields wherever fields are."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "vectors" / "protocol-1"
OPEN = {"acked", "upto", "fields", "features", "args", "output"}
"""Fields whose names are data: what is added there is content, not an unknown field."""
DOCUMENT = {"state", "metadata"}
"""Where a twin message holds the document itself."""


@dataclass(frozen=True)
class Recorded:
    """One message as it was sent: who sent it, of which type ('json': a twin message), where."""

    name: str
    sender: str
    kind: str
    topic: str
    payload: dict[str, Any]


def recorded() -> dict[str, Recorded]:
    """All of them by name. The files are never made anew: what was once sent must be read while it is served."""
    return {
        file.stem: Recorded(name=file.stem, **json.loads(file.read_text("utf-8")))
        for file in sorted(FOLDER.glob("*.json"))
    }


def with_unknown_fields(value: Any, rng: random.Random) -> Any:
    """The same message from a side that knows more: one to three more fields at every level that has fields."""
    if isinstance(value, list):
        return [with_unknown_fields(inner, rng) for inner in value]
    if not isinstance(value, dict):
        return value
    kept = {k: v if k in OPEN | DOCUMENT else with_unknown_fields(v, rng) for k, v in value.items()}
    more = {f"x_{rng.randrange(1 << 30)}": _anything(rng, 0) for _ in range(rng.randrange(1, 4))}
    mixed = [*kept.items(), *more.items()]
    rng.shuffle(mixed)
    return dict(mixed)


def _anything(rng: random.Random, depth: int) -> Any:
    plain = [None, True, -7, 1 << 60, 0.25, "text", "\u00e9\U0001f600", "", []]
    if depth > 2 or rng.random() < 0.6:
        return rng.choice(plain)
    if rng.random() < 0.5:
        return [_anything(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {f"k{n}": _anything(rng, depth + 1) for n in range(rng.randrange(3))}
