"""Keeps what a language model claims only where the facts that it cites support it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_hub.ask.core.facts import Fact, Sentence
from cloud_hub.incidents.core.claims import check_claims
from cloud_hub.incidents.core.evidence import Claim, EvidenceItem

MAX_SENTENCES = 20


def kept(sentences: Sequence[Sentence], facts: Sequence[Fact]) -> tuple[Sentence, ...]:
    """The sentences that cite facts which hold every number and name in them: see `incidents.core.claims`."""
    claims = [Claim(text=sentence.text, cites=sentence.cites) for sentence in sentences[:MAX_SENTENCES]]
    supported, _ = check_claims(claims, [_item(fact) for fact in facts])
    return tuple(Sentence(text=claim.text, cites=claim.cites) for claim in supported)


def _item(fact: Fact) -> EvidenceItem:
    times = (value for name, value in fact.data.items() if name.endswith("_us") and isinstance(value, int))
    return EvidenceItem(
        id=fact.id, kind="note", device=str(fact.data.get("device", "")), t_us=next(times, 0), summary=fact.text,
        data=fact.data,
    )  # fmt: skip
