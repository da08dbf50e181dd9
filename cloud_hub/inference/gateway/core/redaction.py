"""Replaces secrets and personal data in a request by placeholders such as `[EMAIL-1]`.

The same value has the same placeholder within a request, so that the text keeps its sense. Numbers are replaced only if
their check digits fit; a telephone number that is a JSON number only if its field is named like one, because counters
and times look the same. Words of the site's own list are matched in any case. Images cannot be read here: a pool that
redacts takes none.

A pattern holds Python's lock while it searches a text. Long texts are searched in parts, so that other threads run in
between.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT_FIELDS = frozenset({"role", "type", "model", "finish_reason", "tool_call_id", "id"})
"""Fields of a body whose values are part of the protocol."""
TYPED_FIELDS = frozenset({"tools", "functions", "response_format", "seed", "max_tokens", "max_completion_tokens"})
"""Fields whose numbers are part of the protocol or of a schema; texts in them are redacted."""
SMALLEST_NUMBER = 10**6
"""Smaller numbers identify nobody."""
PART = 32 << 10
"""The size of a part of a long text, in characters."""

_DIGITS = str.maketrans("", "", " -")


def luhn(text: str) -> bool:
    """Whether the check digit of a payment card number fits."""
    digits = [int(character) for character in reversed(text.translate(_DIGITS))]
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[1::2]]
    return len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def resident_id(text: str) -> bool:
    """Whether the check character of a Chinese resident identity number fits (GB 11643)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(weight * int(digit) for weight, digit in zip(weights, text[:17], strict=True))
    return "10X98765432"[total % 11] == text[17].upper()


def iban(text: str) -> bool:
    """Whether the check digits of an account number fit (ISO 13616)."""
    compact = text.replace(" ", "").upper()
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


@dataclass(frozen=True, slots=True)
class Recognizer:
    """A kind of value: its pattern, whose last group is replaced (or all of it), and a check of what matched."""

    kind: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool] = lambda text: True
    quoted: bool = False
    """Whether the placeholder takes the place of a JSON number, and is quoted."""


def _recognizer(
    kind: str, pattern: str, check: Callable[[str], bool] = lambda text: True, flags: int = 0, quoted: bool = False
) -> Recognizer:
    return Recognizer(kind, re.compile(pattern, flags | re.ASCII), check, quoted)


_NUMBER = r"(?<![\d.+-])(?<!\":)(?<!\": )"
"""No part of another number, and no JSON number of a field."""
_ID_NUMBER = r"\d{6}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}"
_CARD = r"(?:4|5[1-5]|2[2-7]|3[4-7]|6[0245])"
_END = r"(?![\d.eE])"

LONG_RECOGNIZERS: tuple[Recognizer, ...] = (
    _recognizer(
        "PRIVATE-KEY",
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{1,20000}"
        r"-----END [A-Z ]{0,30}PRIVATE KEY-----",
    ),
    _recognizer("SECRET", r"://[^\s/:@]{1,100}:([^\s/@]{1,200})@"),
)
"""Those whose values may hold a line break or a comma: they are searched in the whole text."""

JSON_NUMBERS: tuple[Recognizer, ...] = (
    _recognizer("ID-NUMBER", r"\":[ \t]{0,3}(" + _ID_NUMBER + r"\d)" + _END, resident_id, quoted=True),
    _recognizer("CARD", r"\":[ \t]{0,3}(" + _CARD + r"\d{11,17})" + _END, luhn, quoted=True),
    _recognizer(
        "PHONE",
        r"\"[^\"\n,]{0,30}(?:phone|mobile|telefon|contact|\btel|fax|手机|电话|联系)[^\"\n,]{0,20}"
        r"\":[ \t]{0,3}(\d{7,15})" + _END,
        flags=re.I, quoted=True,
    ),
)  # fmt: skip
"""Numbers without quotes that follow the name of a field."""

RECOGNIZERS: tuple[Recognizer, ...] = (
    _recognizer("SECRET", r"\beyJ[\w-]{8,4000}\.[\w-]{8,8000}\.[\w-]{8,2000}"),
    _recognizer(
        "SECRET",
        r"\b(?:sk-[\w-]{16,200}|gh[pousr]_\w{30,100}|github_pat_\w{22,200}|glpat-[\w-]{20,100}|xox[abeprs]-[\w-]{10,200}"
        r"|A[KS]IA[0-9A-Z]{16}|LTAI\w{12,30}|AIza[\w-]{35}|hf_\w{30,60}|npm_\w{30,60}|tg_[\w-]{40,60})",
    ),
    _recognizer("SECRET", r"\b(?:bearer|basic)[ \t]+([\w.~+/=-]{12,2000})", flags=re.I),
    _recognizer(
        "SECRET",
        r"(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?key|token|密码|口令)[\"']?[ \t]{0,3}"
        r"(?:[=:]|：|是)[ \t]{0,3}[\"']?([^\s\"',;]{4,200})",
        flags=re.I,
    ),
    _recognizer("EMAIL", r"\b[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,5}\b"),
    _recognizer(
        "ID-NUMBER",
        _NUMBER + _ID_NUMBER + r"[\dXx](?!\w)",
        resident_id,
    ),
    _recognizer("IBAN", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", iban),
    _recognizer("CARD", _NUMBER + _CARD + r"(?:[ -]?\d){11,17}(?!\d|\.\d)", luhn),
    _recognizer("PHONE", _NUMBER + r"1[3-9]\d{9}(?!\d|\.\d)"),
    _recognizer("PHONE", r"(?<![\w+])\+\d{1,3}[ -]?(?:\(\d{1,4}\)[ -]?)?\d{2,4}(?:[ -]?\d{2,4}){1,4}(?!\w|\.\d)"),
    *JSON_NUMBERS,
)


@dataclass(slots=True)
class Redaction:
    """The placeholders of one request. `counts` is how many values of each kind were replaced."""

    counts: Counter[str] = field(default_factory=Counter)
    _placeholders: dict[tuple[str, str], str] = field(default_factory=dict)
    _numbers: Counter[str] = field(default_factory=Counter)

    def placeholder(self, kind: str, value: str) -> str:
        """The placeholder of a value."""
        self.counts[kind] += 1
        known = self._placeholders.get((kind, value))
        if known is None:
            self._numbers[kind] += 1
            known = self._placeholders[kind, value] = f"[{kind}-{self._numbers[kind]}]"
        return known


class Redactor:
    """Redacts with the recognizers and the site's words."""

    def __init__(
        self, words: Iterable[str] = (), long_recognizers: tuple[Recognizer, ...] = LONG_RECOGNIZERS,
        recognizers: tuple[Recognizer, ...] = RECOGNIZERS,
    ) -> None:  # fmt: skip
        listed = sorted({word.strip() for word in words if word.strip()}, key=len, reverse=True)
        self._long, self._recognizers = long_recognizers, recognizers
        if listed:
            site = Recognizer("WORD", re.compile("|".join(_whole(word) for word in listed), re.I))
            if any("," in word for word in listed):
                self._long = (site, *long_recognizers)
            else:
                self._recognizers = (site, *recognizers)

    def redact_body(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], Redaction]:
        """A copy of a request body with all texts redacted, and what was replaced."""
        redaction = Redaction()
        return {name: self._value(name, value, redaction) for name, value in body.items()}, redaction

    def redact_text(self, text: str, redaction: Redaction) -> str:
        """A text, redacted."""
        text = _substituted(self._long, text, redaction)
        if len(text) <= 2 * PART:
            return _substituted(self._recognizers, text, redaction)
        return "".join(_substituted(self._recognizers, part, redaction) for part in _parts(text))

    def _value(self, name: str, value: Any, redaction: Redaction, typed: bool = False) -> Any:
        if isinstance(value, str):
            return value if name in KEPT_FIELDS else self.redact_text(value, redaction)
        typed = typed or name in TYPED_FIELDS
        if isinstance(value, dict):
            return {key: self._value(key, inner, redaction, typed) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._value(name, inner, redaction, typed) for inner in value]
        if type(value) is int and value >= SMALLEST_NUMBER and not typed:
            return self._number(name, value, redaction)
        return value

    def _number(self, name: str, value: int, redaction: Redaction) -> int | str:
        """The number, or its placeholder."""
        text = f'"{name}":{value}'
        redacted = _substituted([known for known in self._recognizers if known.quoted], text, redaction)
        return value if redacted == text else redacted.rpartition(":")[2].strip('"')


def _substituted(recognizers: Iterable[Recognizer], text: str, redaction: Redaction) -> str:
    for recognizer in recognizers:
        text = recognizer.pattern.sub(lambda match, used=recognizer: _replaced(match, used, redaction), text)  # type: ignore[misc]
    return text


def _parts(text: str) -> Iterator[str]:
    """Cut a text after line breaks and commas, which no value of `RECOGNIZERS` holds."""
    start = 0
    while len(text) - start > 2 * PART:
        cut = 1 + max(text.rfind(mark, start + PART, start + 2 * PART) for mark in "\n,")
        if cut == 0:  # none near: look further
            ends = [end for end in (text.find(mark, start + 2 * PART) for mark in "\n,") if end >= 0]
            cut = 1 + min(ends) if ends else len(text)
        yield text[start:cut]
        start = cut
    yield text[start:]


def holds_image(body: Mapping[str, Any]) -> bool:
    """Whether a message of the request holds something other than text."""
    messages = body.get("messages")
    contents = [message.get("content") for message in messages if isinstance(message, dict)] if messages else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, dict) and part.get("type") not in ("text", "refusal") for part in parts)


def _whole(word: str) -> str:
    """A pattern for the word; an ASCII word must not be part of a longer one."""
    head = "(?<![A-Za-z0-9_])" if word[0].isascii() else ""
    tail = "(?![A-Za-z0-9_])" if word[-1].isascii() else ""
    return head + re.escape(word) + tail


def _replaced(match: re.Match[str], recognizer: Recognizer, redaction: Redaction) -> str:
    group = match.re.groups
    value = match[group]
    if not recognizer.check(value) or value.startswith("["):
        return match[0]
    start, end = match.start(group) - match.start(), match.end(group) - match.start()
    placeholder = redaction.placeholder(recognizer.kind, value)
    return match[0][:start] + (f'"{placeholder}"' if recognizer.quoted else placeholder) + match[0][end:]
