"""Diagnoses incidents by a table of rules over evidence items, without a language model. Pure.

`allowed_actions` lists the proposals that are allowed at all; it applies to rules and engines alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloud_hub.incidents.core import messages
from cloud_hub.incidents.core.evidence import (
    Diagnosis,
    Evidence,
    EvidenceItem,
    Message,
    Proposal,
    Verb,
    command_proposal,
)
from cloud_hub.incidents.core.items import numbered_items
from cloud_hub.incidents.core.rule_table import Matcher, Rule
from cloud_hub.incidents.core.tree import Opinion, Tree, features

ENGINE = "rules, no language model"
URGENCY = ("critical", "high", "medium", "low")
SECOND_US = 1_000_000
ALSO = 3
"""The maximum number of further causes."""
OPEN = 0.5
"""A built-in rule of at most this confidence leaves the cause open: the tree may say more."""
CITED = 5
"""The maximum number of items that one condition cites."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBook:
    """The rules in order of precedence, and the decision tree for what they leave open, if there is one.

    `own` are the names of the site's rules, which the tree never overrules.
    """

    rules: tuple[Rule, ...]
    tree: Tree | None = None
    own: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A rule that applies. `subject` is the item of its first condition, `cites` all items that met one."""

    rule: Rule
    subject: EvidenceItem
    named: Mapping[str, str]
    cites: tuple[str, ...]


def diagnose(evidence: Evidence, book: RuleBook, catalogue: messages.Catalogue) -> Diagnosis:
    """Apply the first rule that matches a raised alarm, else a cleared one; then the tree; 'unknown' if neither helps.

    Rules for the alarms that the first one does not explain add further causes.
    """
    items = numbered_items(evidence)
    matches = matching(items, book.rules)
    first = matches[0] if matches else None
    if (opinion := _tree_opinion(items, first, book)) is not None:
        said = [Message(key="tree", values={"cause": opinion.cause, "path": opinion.path}, cites=_alarm_ids(items))]
        if first is not None and opinion.cause != first.rule.spec.cause:
            said.append(_explained(first))
        return _result(evidence, items, opinion.cause, opinion.confidence, said, catalogue)
    if first is not None:
        return _by_rules(evidence, items, matches[:1] if is_cleared(first.subject) else matches, catalogue)
    return _result(evidence, items, "unknown", 0.2, [Message(key="no-rule", cites=_alarm_ids(items))], catalogue)


def _tree_opinion(items: Sequence[EvidenceItem], first: Match | None, book: RuleBook) -> Opinion | None:
    """What the tree says where it is heard: about raised alarms whose cause the rules leave open."""
    if book.tree is None or not any(item.kind == "alarm" and not is_cleared(item) for item in items):
        return None
    cause = first.rule.spec.cause if first is not None else "unknown"
    if not is_open(first, book) or cause not in book.tree.asked_after:
        return None
    return book.tree.decide(features(items))


def is_open(first: Match | None, book: RuleBook) -> bool:
    """Whether the rules leave the cause open: none matches, or one that only says what kind of alarm it is."""
    return first is None or (first.rule.spec.name not in book.own and first.rule.spec.confidence <= OPEN)


def is_cleared(item: EvidenceItem) -> bool:
    """Whether this is an alarm that has cleared."""
    return item.kind == "alarm" and item.data.get("state") == "cleared"


def matching(items: Sequence[EvidenceItem], rules: Sequence[Rule]) -> list[Match]:
    """The rules that apply, by precedence; each subject is explained once, raised alarms before cleared ones."""
    ordered = sorted(items, key=_urgency)
    alarms = [item for item in ordered if item.kind == "alarm"]
    raised = any(not is_cleared(item) for item in alarms)
    found: list[Match] = []
    for subjects in (
        [item for item in ordered if raised and not is_cleared(item)],
        [item for item in alarms if is_cleared(item)],
    ):
        explained: set[str] = set()
        for rule in rules:
            match = _match(rule, [item for item in subjects if item.id not in explained], ordered)
            if match is not None:
                found.append(match)
                explained.update(item.id for item in subjects if rule.when[0].match(item) is not None)
                explained.update(match.cites)
    return found


def _urgency(item: EvidenceItem) -> int:
    priority = item.data.get("priority", "low") if item.kind == "alarm" else "low"
    return URGENCY.index(priority) if priority in URGENCY else len(URGENCY)


def _match(rule: Rule, subjects: Sequence[EvidenceItem], items: Sequence[EvidenceItem]) -> Match | None:
    first = rule.when[0]
    for subject in subjects:
        named = first.match(subject)
        if named is None or len(_meeting(first, subject, items)) < first.spec.devices:
            continue
        if any(_meets(one, subject, items) for one in rule.unless):
            continue
        if all(_meets(one, subject, items) for one in rule.when[1:]):
            cited = [item.id for one in rule.when[1:] for item in _matched(one, subject, items)[:CITED]]
            return Match(rule=rule, subject=subject, named=named, cites=tuple(dict.fromkeys([subject.id, *cited])))
    return None


def _matched(one: Matcher, subject: EvidenceItem, items: Sequence[EvidenceItem]) -> list[EvidenceItem]:
    within_us = one.spec.within_s * SECOND_US
    after_us = 0.0 if one.spec.before else within_us
    near = [item for item in items if -within_us <= item.t_us - subject.t_us <= after_us and not is_cleared(item)]
    return [item for item in near if one.match(item) is not None]


def _meeting(one: Matcher, subject: EvidenceItem, items: Sequence[EvidenceItem]) -> set[str]:
    """The devices with an item that meets a condition; the subject's own counts for the first one."""
    if one.spec.devices == 1:
        return {subject.device}
    return {item.device for item in _matched(one, subject, items)}


def _meets(one: Matcher, subject: EvidenceItem, items: Sequence[EvidenceItem]) -> bool:
    return len({item.device for item in _matched(one, subject, items)}) >= one.spec.devices


def _by_rules(
    evidence: Evidence, items: Sequence[EvidenceItem], matches: Sequence[Match], catalogue: messages.Catalogue
) -> Diagnosis:
    first = matches[0]
    spec = first.rule.spec
    said = [_explained(first)]
    if is_cleared(first.subject):  # nothing left to do
        said.append(Message(key="cleared", cites=(first.subject.id,)))
        return _result(evidence, items, spec.cause, spec.confidence / 2, said, catalogue, proposals=[])
    others = {match.rule.spec.cause: match for match in reversed(matches[1:]) if not is_cleared(match.subject)}
    others.pop(spec.cause, None)
    also = list(reversed(others.values()))[:ALSO]
    said += [Message(key="also", values={"cause": m.rule.spec.cause}, cites=m.cites) for m in also]
    reason = catalogue.claim(said[0]).text
    proposals = None if spec.propose is None else _proposals(first, reason)
    causes = [match.rule.spec.cause for match in also]
    return _result(evidence, items, spec.cause, spec.confidence, said, catalogue, proposals, causes)


def _explained(match: Match) -> Message:
    spec = match.rule.spec
    return Message(key=f"rule.{spec.name}", values=_values(match), cites=match.cites, texts=spec.texts())


def _values(match: Match) -> dict[str, str | float]:
    """What a text may fill in: the facts of the subject, and the named groups."""
    data = match.subject.data
    facts = {name: _plain(data.get(name, "")) for name in ("metric", "value", "limit")}
    return {**facts, "device": match.subject.device, "evidence": match.subject.summary[:200], **match.named}


def _plain(value: Any) -> str | float:
    """A finite number, or a text: what every database can store."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else str(value)[:200]


def _filled(value: Any, values: Mapping[str, str | float]) -> Any:
    """Parameters with their placeholders filled in."""
    if isinstance(value, str):
        return messages.fill(value, values)
    if isinstance(value, dict):
        return {key: _filled(part, values) for key, part in value.items()}
    return [_filled(part, values) for part in value] if isinstance(value, list) else value


def _result(
    evidence: Evidence, items: Sequence[EvidenceItem], cause: str, confidence: float, said: list[Message],
    catalogue: messages.Catalogue, proposals: list[Proposal] | None = None, also: list[str] | None = None,
) -> Diagnosis:  # fmt: skip
    """The diagnosis of some messages. Without `proposals` it proposes to look at the processes, once."""
    if proposals is None:
        proposals = [] if evidence.command_output else [_look(evidence, catalogue.claim(said[0]).text)]
        said = [*said, *_top(evidence, items)]
    return rendered(
        Diagnosis(
            cause=cause, confidence=confidence, explanation="", author="rules", engine=ENGINE, proposals=proposals,
            messages=said, also=also or [],
        ),
        catalogue,
    )  # fmt: skip


def rendered(diagnosis: Diagnosis, catalogue: messages.Catalogue) -> Diagnosis:
    """A diagnosis of the rules in the language of a catalogue; one without messages is an engine's and stays."""
    if not diagnosis.messages:
        return diagnosis
    claims = [catalogue.claim(message) for message in diagnosis.messages]
    return replace(
        diagnosis, claims=claims, explanation=catalogue.explanation(claims), language=catalogue.language
    )  # fmt: skip


def _alarm_ids(items: Sequence[EvidenceItem]) -> tuple[str, ...]:
    return tuple(item.id for item in items if item.kind == "alarm")[:CITED]


def _look(evidence: Evidence, reason: str) -> Proposal:
    return command_proposal("diagnose", evidence.device, "processes", reason)


def _top(evidence: Evidence, items: Sequence[EvidenceItem]) -> list[Message]:
    """What the diagnose command showed: the process that uses the most, or the first line."""
    output = evidence.command_output
    cites = tuple(item.id for item in items if item.kind == "command")[-1:]
    loads = {k: float(v) for k, v in output.items() if not isinstance(v, str) and math.isfinite(v)}
    if loads:
        name = max(loads, key=lambda key: loads[key])
        return [Message(key="top-process", values={"name": name[:80], "load": loads[name]}, cites=cites)]
    shown = list(output.items())[:1]
    return [Message(key="output", values={"name": key[:80], "text": str(v)[:80]}, cites=cites) for key, v in shown]


def allowed_actions(evidence: Evidence, book: RuleBook) -> list[Proposal]:
    """The actions that may be proposed: diagnose, restart or capture of the models that raised the alarms, and what the
    rules that match propose.

    Only alarms name a model: event texts, twin content and command output cannot extend this list.
    """
    items = numbered_items(evidence)
    allowed = [_look(evidence, "")]
    models = {(item.device, item.data.get("metric", "").rpartition("/")[0]) for item in items if item.kind == "alarm"}
    verbs: tuple[Verb, ...] = ("capture", "restart")
    allowed += [command_proposal(verb, device, name, "") for device, name in sorted(models) if name for verb in verbs]
    for match in matching(items, book.rules):
        if match.rule.spec.propose and not is_cleared(match.subject):
            allowed += _proposals(match, "")
    return list({identity(proposal): proposal for proposal in allowed}.values())


def specific_proposals(evidence: Evidence, book: RuleBook, catalogue: messages.Catalogue) -> list[Proposal]:
    """What the first rule that matches a raised alarm proposes itself; nothing for one that only wants a look."""
    match = next(iter(matching(numbered_items(evidence), book.rules)), None)
    if match is None or is_cleared(match.subject):
        return []
    return _proposals(match, catalogue.claim(_explained(match)).text)


def _proposals(match: Match, reason: str) -> list[Proposal]:
    values, device = _values(match), match.subject.device
    return [
        Proposal(action=one.action, device=device, parameters=_filled(one.parameters, values), reason=reason)
        for one in match.rule.spec.propose or []
    ]


def identity(proposal: Proposal) -> tuple[str, str, str]:
    """What makes two proposals the same: action, device and parameters."""
    return proposal.action, proposal.device, json.dumps(proposal.parameters, sort_keys=True, default=str)
