"""Checks the claims of an engine against the evidence they cite. Pure.

A claim stands if it cites items that exist, and if these hold each number, device and metric that it names. The check
reads names and figures, not meaning: numbers in words, and wrong conclusions from right figures, pass.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from cloud_hub.incidents.core.evidence import Claim, EvidenceItem

VALUES = 2000
"""How many values of an item's data are read."""
_CLOCK = re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?)?Z?|\b\d{1,2}:\d\d(?::\d\d)?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:[./-][A-Za-z0-9_]+)+|[A-Za-z]+_[A-Za-z0-9_]+", re.A)
_NUMBER = re.compile(r"(?<![\w.])([-+]?)(\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)\s*(%?)", re.A)
_ABBREVIATIONS = {"e.g", "i.e", "and/or", "a.m", "p.m"}
_MINUS = str.maketrans("−–‐‑", "----")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Why a claim was cut: uncited, unknown, number or name, and which."""

    reason: str
    name: str = ""


@dataclass(slots=True)
class _Held:
    """What cited items hold."""

    text: str = ""
    numbers: list[float] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    count: int = 0


def check_claims(
    claims: Sequence[Claim], items: Sequence[EvidenceItem]
) -> tuple[list[Claim], list[Cut]]:  # fmt: skip
    """The claims that stand, and why the others were cut."""
    by_id = {item.id: item for item in items}
    names = sorted({name for item in items for name in _names(item)}, key=len, reverse=True)
    kept, cuts = [], []
    for claim in claims:
        cut = _cut(claim, by_id, names)
        if cut is None:
            kept.append(claim)
        else:
            cuts.append(cut)
    return kept, cuts


def _cut(claim: Claim, by_id: dict[str, EvidenceItem], names: Sequence[str]) -> Cut | None:
    if not claim.cites:
        return Cut(reason="uncited")
    if any(number not in by_id for number in claim.cites):
        return Cut(reason="unknown")
    cited = [by_id[number] for number in claim.cites]
    return contradiction(claim.text, cited, names)


def contradiction(text: str, cited: Sequence[EvidenceItem], names: Sequence[str]) -> Cut | None:
    """The first number or name of a text that the cited items do not hold. `names` are all devices and metrics."""
    held = _held(cited)
    text = re.sub(r"\bE\d+\b", " ", plain(text))  # a citation in the text
    for moment in _CLOCK.findall(text):
        if not _is_time(moment, held.times):
            return Cut(reason="number", name=moment)
    text = _CLOCK.sub(" ", text)
    for name in names:
        if _names_it(name, text):
            if name not in held.text:
                return Cut(reason="name", name=name)
            text = text.replace(name, " ")
    for name in _NAME.findall(text):
        looks_like_one = any(sign in name for sign in "./_") or any(sign.isdigit() for sign in name)
        if looks_like_one and name.lower() not in _ABBREVIATIONS and name.casefold() not in held.text.casefold():
            return Cut(reason="name", name=name)
    text = _NAME.sub(" ", text)
    for sign, digits, percent in _NUMBER.findall(text):
        if not _is_held(sign, digits, bool(percent), held):
            return Cut(reason="number", name=sign + digits + percent)
    return None


def plain(text: str) -> str:
    """A text with compatible forms (full-width digits, other dashes) made the same, and nothing invisible."""
    text = unicodedata.normalize("NFKC", text).translate(_MINUS)
    return "".join(sign for sign in text if unicodedata.category(sign) != "Cf")


def _names_it(name: str, text: str) -> bool:
    """Whether the text has the name as a whole word; other scripts have no words."""
    if name not in text:
        return False
    if not name.isascii():
        return True
    return re.search(rf"(?<![A-Za-z0-9_./-]){re.escape(name)}(?![A-Za-z0-9_/-]|\.\w)", text) is not None


def _names(item: EvidenceItem) -> Iterator[str]:
    """The device and the metric of an item, as far as they could be mistaken for nothing else."""
    for name in (item.device, item.data.get("metric")):
        if isinstance(name, str) and (len(name) > 2 or not name.isascii()):
            yield plain(name)


def _held(items: Sequence[EvidenceItem]) -> _Held:
    held = _Held(count=len(items))
    parts = []
    for item in items:
        parts += [item.device, item.summary]
        for value in _values(item.data):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                held.numbers.append(float(value))
            else:
                parts.append(str(value))
        if 0 <= item.t_us < 2**52:
            held.times.append(datetime.fromtimestamp(item.t_us / 1e6, timezone.utc))
    held.text = plain("\n".join(parts))
    held.numbers += [float(sign + digits.replace(",", "")) for sign, digits, _ in _NUMBER.findall(held.text)]
    return held


def _values(data: Any) -> Iterable[Any]:
    """Keys and values at any depth, at most VALUES."""
    stack, seen = [data], 0
    while stack and seen < VALUES:
        value = stack.pop()
        seen += 1
        if isinstance(value, dict):
            stack += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            stack += value
        else:
            yield value


def _is_held(sign: str, digits: str, percent: bool, held: _Held) -> bool:
    """Whether a number as written is one of the cited numbers rounded, or counts the cited items."""
    value = float(sign + digits.replace(",", ""))
    if value == held.count:
        return True
    decimals = len(digits.partition(".")[2].lower().partition("e")[0])
    tolerance = 0.5 * 10**-decimals if "e" not in digits.lower() else abs(value) * 0.05
    shares = [number * 100 for number in held.numbers] if percent else []
    return any(
        math.isfinite(number) and abs(number - value) <= tolerance * (1 + 1e-9) + 1e-12
        for number in [*held.numbers, *shares]
    )


def _is_time(written: str, times: Sequence[datetime]) -> bool:
    return any(written.rstrip("Z").replace("T", " ") in moment.strftime("%Y-%m-%d %H:%M:%S") for moment in times)
