"""Fills in message texts. Pure.

Placeholders are `{name}` or `{name:.2f}` and nothing else: a text of a site's file reaches no attribute and asks for no
width. Values from devices are cleaned and bounded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud_hub.incidents.core.evidence import Claim, Message

LANGUAGES = ("en", "zh")
DEFAULT = "en"
VALUE, TEXT = 400, 2000
"""The maximum length of a value and of a text in characters."""
PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]{0,40})(?::\.(\d)([fg%]))?\}")
ANGLES = str.maketrans("<>", "‹›")


def sanitize(text: str, limit: int) -> str:
    """`text` without control, format (zero-width, bidi, tag) and unassigned characters and < >, `limit` at most."""
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: limit * 2]).translate(ANGLES)
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def placeholders(template: str) -> set[str]:
    """The names that a template fills in; raises ValueError for a brace that is no placeholder."""
    if re.search(r"[{}]", PLACEHOLDER.sub("", template)):
        raise ValueError("a placeholder is {name} or {name:.2f}")
    return {match[1] for match in PLACEHOLDER.finditer(template)}


def fill(template: str, values: Mapping[str, str | float]) -> str:
    """The template with its values; a name without a value becomes `?`."""

    def value(match: re.Match[str]) -> str:
        given = values.get(match[1], "?")
        if isinstance(given, str):
            return sanitize(given, VALUE)
        return format(given, f".{match[2]}{match[3]}" if match[2] else ".6g")

    return PLACEHOLDER.sub(value, template)[:TEXT]


def preferred_language(accept: str) -> str:
    """The language that an Accept-Language header prefers of those that there are, or ''."""
    weights: dict[str, float] = {}
    for part in accept[:500].split(","):
        name, _, parameter = part.strip().lower().partition(";")
        language = name.partition("-")[0].strip()
        match = re.fullmatch(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", parameter)
        weight = float(match[1]) if match else 1.0
        if language in LANGUAGES and (match or not parameter):
            weights[language] = max(weights.get(language, 0.0), weight)
    best = max(weights, key=lambda language: weights[language], default="")
    return best if weights.get(best, 0.0) > 0 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The texts of one language by key. A key without a text stands for itself: nothing fails over a text."""

    language: str
    texts: Mapping[str, str]

    def text(self, key: str, **values: str | float) -> str:
        """The filled-in text of a key."""
        return fill(self.texts.get(key, key), values)

    def cause(self, code: str) -> str:
        """The title of a cause; the code itself if a site or an engine made it up."""
        return self.texts.get(f"cause.{code}", code)

    def claim(self, message: Message) -> Claim:
        """A message in this language; one of a site's rule in the nearest language that its file has."""
        own = message.texts
        template = own.get(self.language) or own.get(DEFAULT) or next(iter(own.values()), "")
        template = template or self.texts.get(message.key, message.key)
        values = {k: self.cause(v) if k == "cause" and isinstance(v, str) else v for k, v in message.values.items()}
        return Claim(text=fill(template, values), cites=message.cites)

    def explanation(self, claims: Sequence[Claim], engine: str = "") -> str:
        """The claims as one text that says who answered: an engine, or the rules."""
        text = self.texts.get("joint", "; ").join(claim.text.rstrip(".。") for claim in claims)
        return text + self.text("signature", engine=engine or self.text("engine.rules"))
