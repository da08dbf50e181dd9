"""Diagnoses incidents: by rules, or by a language model under strict conditions.

The engine's reply is decoded strictly, and proposals outside the list computed from the evidence are dropped. If the
engine fails in any way, the diagnosis of the rules is used, with a note about the reason.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, get_args

import msgspec

from cloud_hub.incidents.core import prompts, rules
from cloud_hub.incidents.core.evidence import Diagnosis, Evidence, Proposal, Verb
from cloud_hub.inference.gateway.blocking import LanguageModel
from shared.errors import TidegateError

log = logging.getLogger(__name__)

CAUSE = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+){0,5}\Z")
MAX_PROPOSALS = 8

VerbText = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(get_args(Verb))})]
"""The schema asks for a known verb, and the gateway insists on it. What passes is checked against the allowed list."""


class ReplyProposal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A proposal as the engine wrote it, not checked against the allowed list yet."""

    verb: VerbText
    device: str
    target: str
    reason: str


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The reply that an engine must give."""

    cause: str
    confidence: float
    explanation: str
    proposals: list[ReplyProposal]

    def __post_init__(self) -> None:
        if len(self.cause) > 40 or not CAUSE.match(self.cause):
            raise ValueError("cause is no short code")
        if not (math.isfinite(self.confidence) and 0 <= self.confidence <= 1):
            raise ValueError("confidence must lie in 0..1")
        if not self.explanation.strip() or len(self.proposals) > MAX_PROPOSALS:
            raise ValueError(f"an explanation and at most {MAX_PROPOSALS} proposals are needed")


def _schema() -> dict[str, Any]:
    """The JSON Schema of Reply with an object at the root: several servers reject a reference there."""
    named: dict[str, Any] = msgspec.json.schema(Reply)["$defs"]
    root: dict[str, Any] = named.pop("Reply")
    return root | {"$defs": named}


SCHEMA = _schema()


def diagnose(evidence: Evidence, engine: LanguageModel | None = None) -> Diagnosis:
    """Diagnose an incident by the engine if its reply is valid, else by the rules.

    Engine errors are not raised but recorded in `note`. Takes at most as long as the timeout of the engine.
    """  # fmt: skip
    by_rules = rules.diagnose(evidence)
    if engine is None:
        return by_rules
    allowed = rules.allowed_actions(evidence)
    try:
        text = engine.ask(prompts.SYSTEM, prompts.render_prompt(evidence, by_rules, allowed), SCHEMA)
        reply = msgspec.json.decode(text, type=Reply)
    except (TidegateError, msgspec.MsgspecError) as error:
        return _fallback(by_rules, engine, str(error))
    except Exception as error:  # noqa: BLE001 - a third party's engine may raise anything; its text may hold secrets
        return _fallback(by_rules, engine, type(error).__name__)
    return _checked(reply, engine, allowed)


def _fallback(by_rules: Diagnosis, engine: LanguageModel, reason: str) -> Diagnosis:
    note = f"by rules, because {engine.name} gave no usable answer: {prompts.sanitize(reason)}"
    log.warning("diagnosis.fallback", extra={"fields": {"engine": engine.name, "reason": prompts.sanitize(reason)}})
    return replace(by_rules, note=note)


def _checked(reply: Reply, engine: LanguageModel, allowed: Sequence[rules.Allowed]) -> Diagnosis:
    kept: dict[rules.Allowed, Proposal] = {}
    dropped = []
    known = {(str(verb), device, target): (verb, device, target) for verb, device, target in allowed}
    for asked in reply.proposals:
        match = known.get((asked.verb, asked.device, asked.target))
        if match is None:
            dropped.append(f"'{asked.verb} {asked.target} on {asked.device}'")
        else:
            reason = prompts.sanitize(asked.reason)
            kept[match] = Proposal(verb=match[0], device=match[1], target=match[2], reason=reason)
    if dropped:
        log.warning("diagnosis.proposals_dropped", extra={"fields": {"engine": engine.name, "proposals": len(dropped)}})
    return Diagnosis(
        cause=reply.cause,
        confidence=reply.confidence,
        explanation=prompts.sanitize(reply.explanation, 2000),
        author="glm",
        engine=engine.name,
        proposals=list(kept.values()),
        note=prompts.sanitize("dropped, not allowed here: " + ", ".join(dropped)) if dropped else "",
    )
