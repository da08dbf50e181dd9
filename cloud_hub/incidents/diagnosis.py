"""Diagnoses incidents: by rules, or by a language model under strict conditions.

The engine's reply is decoded strictly. Proposals outside the list computed from the evidence are dropped, and claims
that the evidence they cite does not hold are cut. If the engine fails in any way, or no claim is left, the
diagnosis of the rules is used, with a note about the reason.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from cloud_hub.incidents.core import claims, prompts, rules
from cloud_hub.incidents.core.evidence import Claim, Diagnosis, Evidence, EvidenceItem, Proposal
from cloud_hub.incidents.core.items import numbered_items
from cloud_hub.incidents.core.messages import Catalogue, sanitize
from cloud_hub.incidents.desk import Desk, catalogue, open_desk
from cloud_hub.inference.gateway.blocking import LanguageModel
from shared.errors import TidegateError

log = logging.getLogger(__name__)

CAUSE = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+){0,5}\Z")
MAX_PROPOSALS, MAX_CLAIMS, MAX_CITES = 8, 12, 16
TEXT, NOTE = 400, 240
"""The maximum length of a claim or reason, and of a note, in characters."""
NAMED = 5
"""How many cut claims or dropped proposals a note names."""


class ReplyClaim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A claim as the engine wrote it."""

    text: str
    cites: list[str]


class ReplyProposal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A proposal as the engine wrote it, not checked against the allowed list yet."""

    action: str
    device: str
    parameters: dict[str, Any]
    reason: str


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The reply that an engine must give."""

    cause: str
    confidence: float
    claims: list[ReplyClaim]
    proposals: list[ReplyProposal]

    def __post_init__(self) -> None:
        if len(self.cause) > 40 or not CAUSE.match(self.cause):
            raise ValueError("cause is no short code")
        if not (math.isfinite(self.confidence) and 0 <= self.confidence <= 1):
            raise ValueError("confidence must lie in 0..1")
        if len(self.claims) > MAX_CLAIMS or len(self.proposals) > MAX_PROPOSALS:
            raise ValueError(f"at most {MAX_CLAIMS} claims and {MAX_PROPOSALS} proposals are read")


def _schema() -> dict[str, Any]:
    """The JSON Schema of Reply with an object at the root: several servers reject a reference there."""
    named: dict[str, Any] = msgspec.json.schema(Reply)["$defs"]
    root: dict[str, Any] = named.pop("Reply")
    return root | {"$defs": named}


SCHEMA = _schema()


def diagnose(evidence: Evidence, engine: LanguageModel | None = None, desk: Desk | None = None) -> Diagnosis:
    """Diagnose an incident by the engine if its reply is valid, else by the rules.

    Engine errors are not raised but recorded in `note`. Takes at most as long as the timeout of the engine.
    """  # fmt: skip
    desk = desk or open_desk()
    by_rules = rules.diagnose(evidence, desk.book, desk.catalogue)
    if engine is None:
        return by_rules
    items, allowed = numbered_items(evidence), rules.allowed_actions(evidence, desk.book)
    prompt = prompts.render_prompt(evidence, items, by_rules, allowed, desk.catalogue.language)
    try:
        reply = msgspec.json.decode(engine.ask(prompts.SYSTEM, prompt, SCHEMA), type=Reply)
    except (TidegateError, msgspec.MsgspecError) as error:
        return _fallback(by_rules, engine, str(error), desk.catalogue)
    except Exception as error:  # noqa: BLE001 - a third party's engine may raise anything; its text may hold secrets
        return _fallback(by_rules, engine, type(error).__name__, desk.catalogue)
    return _checked(reply, engine.name, items, allowed, by_rules, desk.catalogue)


def follow_lead(lead_id: str, stored: Mapping[str, Any], evidence: Evidence, desk: Desk | None = None) -> Diagnosis:
    """The diagnosis of a member of a group: that of the incident which leads it, and what rules propose for itself.

    `stored` is the lead's diagnosis as the database has it; one that cannot be read leaves the rules. Asks no engine.
    """
    desk = desk or open_desk()
    try:
        lead = msgspec.convert(dict(stored), Diagnosis)
    except msgspec.ValidationError:
        return diagnose(evidence, None, desk)
    proposals = rules.specific_proposals(evidence, desk.book, desk.catalogue)
    note = desk.catalogue.text("note.member", lead=lead_id)
    return replace(lead, proposals=proposals, note=" ".join(filter(None, [note, lead.note])), lead=lead_id)


def localized(stored: Mapping[str, Any], language: str) -> dict[str, Any]:
    """A stored diagnosis in another language, as far as the rules wrote it; an engine's text stays as it is."""
    try:
        diagnosis = msgspec.convert(dict(stored), Diagnosis)
    except msgspec.ValidationError:  # of an older version
        return dict(stored)
    if diagnosis.language == language or not diagnosis.messages:
        return dict(stored)
    written = rules.rendered(diagnosis, catalogue(language))
    changes: dict[str, Any] = msgspec.to_builtins(
        {"explanation": written.explanation, "claims": written.claims, "language": written.language}
    )
    return dict(stored) | changes


def _fallback(by_rules: Diagnosis, engine: LanguageModel, reason: str, texts: Catalogue) -> Diagnosis:
    reason = sanitize(reason, NOTE)
    log.warning("diagnosis.fallback", extra={"fields": {"engine": engine.name, "reason": reason}})
    return replace(by_rules, note=texts.text("note.fallback", engine=engine.name, reason=reason))


def _checked(
    reply: Reply, engine: str, items: Sequence[EvidenceItem], allowed: Sequence[Proposal], by_rules: Diagnosis,
    texts: Catalogue,
) -> Diagnosis:  # fmt: skip
    said = [Claim(text=sanitize(c.text, TEXT), cites=tuple(dict.fromkeys(c.cites[:MAX_CITES]))) for c in reply.claims]
    kept, cuts = claims.check_claims([claim for claim in said if claim.text.strip()], items)
    proposals, dropped = _allowed_proposals(reply.proposals, allowed)
    notes = []
    if cuts:
        reasons = ", ".join(dict.fromkeys(texts.text(f"cut.{cut.reason}", name=cut.name) for cut in cuts[:NAMED]))
        notes.append(texts.text("note.claims", engine=engine, count=len(cuts), reasons=reasons))
    if dropped:
        notes.append(texts.text("note.proposals", dropped=", ".join(dropped)))
    if cuts or dropped:
        fields = {"engine": engine, "claims": len(cuts), "proposals": len(dropped)}
        log.warning("diagnosis.cut", extra={"fields": fields})
    if not kept:
        reason = texts.text("note.unsupported")
        note = texts.text("note.fallback", engine=engine, reason=reason)
        return replace(by_rules, note=" ".join([note, *notes]))
    return Diagnosis(
        cause=reply.cause,
        confidence=reply.confidence,
        explanation=texts.explanation(kept, engine),
        author="glm",
        engine=engine,
        proposals=proposals,
        note=" ".join(notes),
        claims=kept,
        language=texts.language,
    )


def _allowed_proposals(
    asked: Sequence[ReplyProposal], allowed: Sequence[Proposal]
) -> tuple[list[Proposal], list[str]]:  # fmt: skip
    """The proposals that are allowed, each once, and texts of the others."""
    known = {rules.identity(proposal): proposal for proposal in allowed}
    kept: dict[tuple[str, str, str], Proposal] = {}
    dropped = []
    for one in asked:
        proposal = Proposal(action=one.action, device=one.device, parameters=one.parameters, reason="")
        match = known.get(rules.identity(proposal))
        if match is None:
            values = " ".join(str(value) for value in one.parameters.values())
            dropped.append(f"'{sanitize(f'{one.action} {values} on {one.device}', NOTE)}'")
        else:
            kept[rules.identity(match)] = replace(match, reason=sanitize(one.reason, TEXT))
    return list(kept.values()), dropped[:NAMED]
